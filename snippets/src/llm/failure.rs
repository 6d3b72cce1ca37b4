//! Why an answer failed, and what to do about it: one classification for statuses, events inside the stream and transport errors.
//!
//! Use it wherever an answer is read or an error is shown. Guarantees: an error that nobody knows is `Internal`, never the user's
//! fault; an empty account is not a rate limit. Needs no other file.

use std::{error::Error, time::Duration};

use serde_json::Value;

// ANCHOR: error
/// Why an answer is not complete. The text received before it is a fragment, even if it looks complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The bytes ended before the model's finish reason.
    #[error("the stream ended before the model had finished")]
    Truncated,
    /// The provider reported a failure inside the stream, after its 200.
    #[error("the provider failed ({failure:?}, {code}): {message}")]
    Provider {
        /// What to do about it.
        failure: Failure,
        /// The provider's code or type.
        code: String,
        /// The provider's text. For your log: it may quote the prompt, limits or account names.
        message: String,
    },
    /// The provider answered with another status than 200.
    #[error("the provider answered {status}: {body}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The provider's `Retry-After` (seconds or a date) or `retry-after-ms`.
        retry_after: Option<Duration>,
        /// The start of the body. For your log, as `message` above.
        body: String,
    },
    /// The received bytes are not this provider's format.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// A bound of the decoder was reached.
    #[error("{what} is larger than {limit} bytes or items")]
    TooLarge {
        /// The part that grew too large.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The connection failed, or the read timeout passed. The text has every cause: DNS, refused, TLS, reset.
    #[error("the connection to the provider failed: {0}")]
    Transport(String),
}
// ANCHOR_END: error

// ANCHOR: kinds
/// Kinds of failure that callers treat differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Too many requests or tokens: wait, then retry with backoff.
    RateLimited,
    /// The provider is out of capacity: wait, or ask another one.
    Overloaded,
    /// The provider broke, or the error is unknown: one retry may help.
    Internal,
    /// The conversation: too long, against a policy, invalid. The same request fails again.
    Rejected,
    /// Our key, model name, permission or parameters. The same request fails until an operator acts.
    Misconfigured,
    /// Our account has no credit. The same request fails until someone pays.
    AccountEmpty,
}
// ANCHOR_END: kinds

impl Failure {
    // ANCHOR: retryable
    /// Whether the same request may succeed later.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Overloaded | Self::Internal)
    }
    // ANCHOR_END: retryable
}

impl ModelError {
    /// What to do about it.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Provider { failure, .. } => *failure,
            Self::Status { status, body, .. } => of_status(*status, body),
            Self::Truncated | Self::Malformed(_) | Self::TooLarge { .. } | Self::Transport(_) => {
                Failure::Internal
            }
        }
    }

    /// Reads an error as providers report it inside a stream: text, an object, or either of them nested below `error`.
    pub fn provider(report: &Value) -> Self {
        let error = innermost(report);
        let names = names(error);
        let message = message(error);
        let known = names.iter().find(|name| by_name(name).is_some());
        let code = known.or(names.first()).cloned().unwrap_or_default();
        Self::Provider {
            failure: by_report(error).unwrap_or(Failure::Internal),
            code,
            message,
        }
    }

    /// Keeps all causes: `error sending request` alone does not distinguish DNS, TLS and a refused connection.
    pub fn transport(error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        Self::Transport(text)
    }
}

fn innermost(mut error: &Value) -> &Value {
    // FastAPI servers write `detail`, Google wraps its errors into a list.
    while let Some(inner) = ["error", "detail"]
        .iter()
        .map(|name| &error[name])
        .chain(error.get(0))
        .find(|inner| inner.is_object() || inner.is_string())
    {
        error = inner;
    }
    error
}

fn message(error: &Value) -> String {
    let text = error.as_str().or(error["message"].as_str());
    text.map_or_else(|| error.to_string(), str::to_owned)
}

/// The codes of an error object, the most telling first; numbers last.
fn names(error: &Value) -> Vec<String> {
    let reasons = error["details"].as_array().into_iter().flatten();
    let reasons = reasons.map(|detail| &detail["reason"]);
    let names = [&error["code"], &error["type"]].into_iter().chain(reasons);
    let more = [&error["status"], &error["metadata"]["error_type"]];
    let all: Vec<&Value> = names.chain(more).collect();
    let texts = all.iter().filter_map(|name| name.as_str());
    let texts = texts.filter(|name| !name.is_empty() && *name != "error");
    let numbers = all.iter().filter(|name| name.is_number());
    texts
        .map(str::to_owned)
        .chain(numbers.map(|n| n.to_string()))
        .collect()
}

fn by_report(error: &Value) -> Option<Failure> {
    // Anthropic, DeepSeek and xAI have no code of their own for it.
    let message = message(error).to_ascii_lowercase();
    let empty = [
        "credit balance is too low",
        "insufficient balance",
        "used all available credits",
    ];
    if empty.iter().any(|phrase| message.contains(phrase)) {
        return Some(Failure::AccountEmpty);
    }
    // OpenRouter's 403 for moderation: the input was flagged, our key is good.
    if !error["metadata"]["reasons"].is_null() || !error["metadata"]["flagged_input"].is_null() {
        return Some(Failure::Rejected);
    }
    // Our parameter, not the conversation: `param` of OpenAI, and FastAPI's list of unknown fields.
    let theirs = ["messages", "input", "contents", "prompt"];
    let ours = |param: &str| !theirs.iter().any(|name| param.starts_with(name));
    let unknown = error["detail"][0]["type"] == "extra_forbidden";
    if unknown || error["param"].as_str().is_some_and(ours) {
        return Some(Failure::Misconfigured);
    }
    names(error).iter().find_map(|name| by_name(name))
}

fn of_status(status: u16, body: &str) -> Failure {
    let report = serde_json::from_str::<Value>(body).unwrap_or_default();
    let named = by_report(innermost(&report));
    let by_status = by_number(status).unwrap_or(Failure::Internal);
    match named {
        // 429 and 5xx are facts about the moment; only an empty account explains them better.
        Some(failure) if status == 429 || status >= 500 => match failure {
            Failure::AccountEmpty | Failure::Overloaded => failure,
            Failure::RateLimited if status >= 500 => failure,
            _ => by_status,
        },
        // A 4xx is not the provider's breakdown, whatever the body calls it.
        Some(Failure::Internal) | None => by_status,
        Some(failure) => failure,
    }
}

fn by_number(status: u16) -> Option<Failure> {
    Some(match status {
        400 | 413 | 414 | 422 => Failure::Rejected,
        401 | 403 | 404 | 405 => Failure::Misconfigured,
        402 => Failure::AccountEmpty,
        429 => Failure::RateLimited,
        // 498: Groq's capacity, 529: Anthropic's.
        498 | 503 | 529 => Failure::Overloaded,
        408 | 409 | 424 | 499..=599 => Failure::Internal,
        _ => return None,
    })
}

/// Codes and types of OpenAI, Azure, Anthropic, Google, AWS, OpenRouter, Groq, DeepSeek, Moonshot and vLLM, in any spelling:
/// `RateLimitExceeded` is `rate_limit_exceeded`.
fn by_name(name: &str) -> Option<Failure> {
    if let Ok(status) = name.parse() {
        return by_number(status);
    }
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let name: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    let name = name.strip_suffix("exception").unwrap_or(&name);
    Some(match name.strip_suffix("error").unwrap_or(name) {
        "ratelimitexceeded" | "ratelimit" | "ratelimited" | "ratelimitreached"
        | "toomanyrequests" | "resourceexhausted" | "throttling" => Failure::RateLimited,
        "overloaded"
        | "serveroverloaded"
        | "serverisoverloaded"
        | "slowdown"
        | "serviceunavailable"
        | "unavailable"
        | "engineoverloaded"
        | "modeloverloaded"
        | "insufficientsystemresource"
        | "capacityexceeded"
        | "modelnotready" => Failure::Overloaded,
        "server" | "internalserver" | "internal" | "api" | "timeout" | "requesttimeout"
        | "modeltimeout" | "deadlineexceeded" | "aborted" | "cancelled" | "badgateway"
        | "gatewaytimeout" | "modelstream" | "model" => Failure::Internal,
        "insufficientquota"
        | "billinghardlimitreached"
        | "billingnotactive"
        | "billing"
        | "insufficientbalance"
        | "insufficientcredits"
        | "insufficientfunds"
        | "paymentrequired"
        | "exceededcurrentquota"
        | "arrearage" => Failure::AccountEmpty,
        "invalidapikey"
        | "apikeyinvalid"
        | "authentication"
        | "invalidauthentication"
        | "unauthorized"
        | "unauthenticated"
        | "permission"
        | "permissiondenied"
        | "accessdenied"
        | "notfound"
        | "modelnotfound"
        | "deploymentnotfound"
        | "resourcenotfound"
        | "failedprecondition"
        | "unsupportedparameter"
        | "unknownparameter"
        | "unsupportedvalue" => Failure::Misconfigured,
        "invalidrequest"
        | "invalidargument"
        | "badrequest"
        | "validation"
        | "contextlengthexceeded"
        | "requesttoolarge"
        | "invalidprompt"
        | "contentfilter"
        | "contentpolicyviolation"
        | "stringabovemaxlength"
        | "outofrange" => Failure::Rejected,
        _ => return None,
    })
}
