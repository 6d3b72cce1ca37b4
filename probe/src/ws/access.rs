//! Who gets a connection.

use std::time::Duration;

use super::frame::{self, Upgrade};
use super::{PATIENCE, Probe};
use crate::Payload;
use crate::checks::{self, Check};
use crate::http1::Request;
use crate::target::Target;

const FOREIGN: &str = "https://stream-probe.invalid";

/// What an attempt to connect came to.
enum Attempt {
	/// Open, and still so a while later.
	Stays,
	Refused(String),
	/// No answer.
	Silent,
}

/// Words in the names of headers, and in first messages, that carry credentials.
const CREDENTIALS: &[&str] =
	&["auth", "cookie", "token", "key", "secret", "session", "password", "credential", "jwt", "ticket", "bearer"];

fn is_credential(name: &str) -> bool {
	let name = name.to_ascii_lowercase();
	CREDENTIALS.iter().any(|word| name.contains(word))
}

/// Connects, and sees whether the service changes its mind within `wait`; it may send a message first. Returns the
/// error text too.
async fn attempt(
	request: &Request,
	target: &Target,
	hello: &[Payload],
	patience: Duration,
	wait: Duration,
) -> (Attempt, String) {
	match frame::connect(request, target, patience).await {
		Ok(Upgrade::Open(mut socket)) => {
			for hello in hello {
				socket.send(hello.opcode(), hello.bytes()).await;
			}
			let ended = socket.until(wait, |_| false).await;
			let errors = std::mem::take(&mut socket.errors);
			if ended.ended() {
				let how = format!("accepted, then {}", ended.text());
				(Attempt::Refused(how), errors)
			} else {
				(Attempt::Stays, errors)
			}
		}
		Ok(Upgrade::Refused(mut response)) => {
			let status = response.head.status;
			let body = response.text(Duration::from_secs(1)).await;
			(Attempt::Refused(format!("status {status}")), body)
		}
		Ok(Upgrade::Closed) => {
			let how = "the connection was closed".to_owned();
			(Attempt::Refused(how), String::new())
		}
		Ok(Upgrade::Silent) | Err(_) => (Attempt::Silent, String::new()),
	}
}

/// Origins that are none of `own`, and that a careless comparison takes for it.
fn foreign_origins(own: &str) -> Vec<String> {
	let mut origins = vec![FOREIGN.to_owned(), "null".to_owned()];
	let Some((scheme, authority)) = own.split_once("://") else {
		return origins;
	};
	origins.push(format!("{own}.stream-probe.invalid"));
	origins.push(format!("{scheme}://stream-probe-{authority}"));
	let (host, port) = match authority.rsplit_once(':') {
		Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
		_ => (authority, None),
	};
	// While a page is developed, its own port may be any.
	let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
	if !local {
		let other = if scheme == "https" { "http" } else { "https" };
		origins.push(format!("{other}://{authority}"));
		let port = if port == Some("8443") { "9443" } else { "8443" };
		origins.push(format!("{scheme}://{host}:{port}"));
	}
	origins
}

impl Probe<'_> {
	pub(super) async fn access(&self) {
		self.version().await;
		self.plain_get().await;
		self.origin().await;
		self.credentials().await;
		self.unknown_subprotocol().await;
	}

	async fn attempt(&self, request: &Request, hello: &[Payload], wait: Duration) -> Attempt {
		let (patience, wait) = (self.run.at_most(PATIENCE), self.run.at_most(wait));
		let (attempt, errors) = attempt(request, &self.target, hello, patience, wait).await;
		self.hear(&errors);
		attempt
	}

	async fn version(&self) {
		const ID: &Check = checks::WS_VERSION_CHECKED;
		if !self.run.needs(&[ID, checks::WS_ERRORS_CLEAN]) {
			return;
		}
		let request = self.request.clone().header("Sec-WebSocket-Version", "12");
		match self.attempt(&request, &[], Duration::ZERO).await {
			Attempt::Refused(how) => self.run.pass(ID, how),
			Attempt::Stays => self.run.fail(ID, "version 12 was answered with 101"),
			Attempt::Silent => self.run.unknown(ID, "no answer"),
		}
	}

	async fn plain_get(&self) {
		const ID: &Check = checks::WS_PLAIN_GET_REFUSED;
		if !self.run.needs(&[ID, checks::WS_ERRORS_CLEAN]) {
			return;
		}
		let mut request = self.request.clone();
		for name in ["Connection", "Upgrade", "Sec-WebSocket-Version", "Sec-WebSocket-Key", "Sec-WebSocket-Protocol"] {
			request = request.without(name);
		}
		let Some(mut response) = request.response(&self.target, self.run.at_most(PATIENCE)).await else {
			if !self.run.left().is_zero() {
				self.run.fail(ID, format!("no HTTP answer within {} s", PATIENCE.as_secs()));
			}
			return;
		};
		let status = response.head.status;
		self.hear(&response.text(self.run.at_most(Duration::from_secs(1))).await);
		if status < 500 || status == 501 {
			self.run.pass(ID, format!("status {status}"));
		} else {
			self.run.fail(ID, format!("status {status}"));
		}
	}

	/// Cross-site hijacking: another site's page connects with the user's cookie.
	async fn origin(&self) {
		const ID: &Check = checks::WS_ORIGIN_CHECKED;
		const WAIT: Duration = Duration::from_secs(2);
		if !self.run.needs(&[ID]) {
			return;
		}
		let own = self.options.origin.clone().unwrap_or_else(|| {
			let scheme = if self.target.secure { "https" } else { "http" };
			format!("{scheme}://{}", self.target.authority())
		});
		let origins = foreign_origins(&own);
		let mut attempts = tokio::task::JoinSet::new();
		for origin in origins.iter().cloned() {
			let request = self.request.clone().header("Origin", origin.as_str());
			let (target, hello) = (self.target.clone(), self.options.hello.clone());
			let (patience, wait) = (self.run.at_most(PATIENCE), self.run.at_most(WAIT));
			attempts.spawn(async move {
				let tried = attempt(&request, &target, &hello, patience, wait).await;
				(origin, tried)
			});
		}
		// The control, at the same time: the client's own Origin.
		let control = self.attempt(&self.request, &self.options.hello, WAIT);
		let (control, tried) = tokio::join!(control, attempts.join_all());
		if self.run.left().is_zero() {
			return;
		}
		if !matches!(control, Attempt::Stays) {
			return self.run.unknown(ID, "a connection with the client's own Origin does not stay open either");
		}
		let mut let_in = Vec::new();
		let mut refused = None;
		for (origin, (attempt, errors)) in tried {
			self.hear(&errors);
			match attempt {
				Attempt::Stays => let_in.push(origin),
				Attempt::Refused(how) if origin == FOREIGN => refused = Some(how),
				Attempt::Refused(_) => {}
				Attempt::Silent => {
					return self.run.unknown(ID, format!("no answer for Origin {origin}"));
				}
			}
		}
		let_in.sort_by_key(|origin| origin != FOREIGN);
		let judged = self.options.cookie.is_some() || (self.options.origin.is_some() && !self.sends_authorization());
		match (let_in.first(), judged) {
            (None, _) => self.run.pass(ID, format!("{} foreign Origins are refused, such as {FOREIGN}: {}", origins.len(), refused.unwrap_or_default())),
            (Some(origin), true) => {
                let with = if self.options.cookie.is_some() { " with the user's cookie" } else { "" };
                let others = origins.len() - let_in.len();
                self.run.fail(ID, format!("a page of {origin} gets a socket{with} ({others} of {} foreign Origins are refused)", origins.len()));
            }
            (Some(_), false) => self.run.unknown(ID, "a foreign Origin is let in: right for a public feed and for tokens that the page must hold, wrong with cookies (--cookie, --origin)"),
        }
	}

	fn sends_authorization(&self) -> bool {
		self.options.headers.iter().any(|(name, _)| is_credential(name))
	}

	async fn credentials(&self) {
		const ID: &Check = checks::WS_AUTH_REQUIRED;
		const WAIT: Duration = Duration::from_secs(4);
		if !self.run.needs(&[ID]) {
			return;
		}
		let hello = &self.options.hello;
		let is_secret = |hello: &Payload| is_credential(&String::from_utf8_lossy(hello.bytes()));
		let public: Vec<Payload> = hello.iter().filter(|hello| !is_secret(hello)).cloned().collect();
		let secret = public.len() < hello.len();
		if self.options.cookie.is_none() && !self.sends_authorization() && !secret {
			return self.run.unknown(ID, "needs --cookie, a header with credentials (-H), or a --hello with them");
		}
		let mut request = self.request.clone().without("Cookie");
		for (name, _) in &self.options.headers {
			if is_credential(name) {
				request = request.without(name);
			}
		}
		let bare = self.attempt(&request, &public, WAIT);
		// The control, at the same time: with them.
		let control = self.attempt(&self.request, hello, WAIT);
		let (bare, control) = tokio::join!(bare, control);
		if self.run.left().is_zero() {
			return;
		}
		match (bare, control) {
			(Attempt::Silent, _) => self.run.unknown(ID, "no answer"),
			(Attempt::Refused(how), Attempt::Stays) => self.run.pass(ID, how),
			(_, Attempt::Refused(how)) => {
				self.run.unknown(ID, format!("with the credentials the connection does not stay open either: {how}"))
			}
			(_, Attempt::Silent) => self.run.unknown(ID, "no answer with the credentials"),
			// Whether it is served anything before its first message, nothing shows.
			(Attempt::Stays, _) if secret => self.run.unknown(
				ID,
				"a connection without the --hello is open 4 s later: whether it is sent anything, the probe does not know",
			),
			(Attempt::Stays, _) => self.run.fail(ID, "without the credentials the connection is open 4 s later"),
		}
	}

	async fn unknown_subprotocol(&self) {
		const ID: &Check = checks::WS_SUBPROTOCOL_NOT_ECHOED;
		const NAME: &str = "stream-probe.unknown";
		if !self.run.needs(&[ID]) {
			return;
		}
		let request = self.request.clone().header("Sec-WebSocket-Protocol", NAME);
		match frame::connect(&request, &self.target, self.run.at_most(PATIENCE)).await {
			Ok(Upgrade::Open(socket)) => match socket.head.get("sec-websocket-protocol") {
				Some(name) if name == NAME => self.run.fail(
					ID,
					format!("{NAME} was selected because it was offered; a bearer token in its place would be echoed"),
				),
				Some(name) if name.is_empty() => {
					self.run.fail(ID, "an empty Sec-WebSocket-Protocol, with which a browser fails the connection")
				}
				Some(name) => self.run.fail(ID, format!("{name} was selected, though only {NAME} was offered")),
				None => self.run.pass(ID, "101 without a subprotocol"),
			},
			Ok(Upgrade::Refused(response)) => self.run.pass(ID, format!("status {}", response.head.status)),
			_ => self.run.unknown(ID, "no answer"),
		}
	}
}

#[cfg(test)]
mod tests {
	use super::*;

	#[test]
	fn origins_that_look_like_the_own_one_are_foreign() {
		let tried = foreign_origins("https://app.example");
		assert_eq!(
			tried,
			[
				FOREIGN,
				"null",
				"https://app.example.stream-probe.invalid",
				"https://stream-probe-app.example",
				"http://app.example",
				"https://app.example:8443",
			]
		);
		assert_eq!(foreign_origins("http://localhost:5173").len(), 4);
	}
}
