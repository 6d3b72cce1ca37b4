//! Answers that the provider keeps (`background` of OpenAI Responses): continued after a cut, cancelled when their reader leaves.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future, stream};
use serde_json::json;
use snippets::llm::failure::ModelError;
use snippets::llm::meter::{Measured, Outcome, measure};
use snippets::llm::model_event::{FinishReason, ModelEvent};
use snippets::llm::model_stream::{Body, Kept, kept_events, model_events};
use snippets::llm::openai_responses::OpenAiResponses;
use snippets::llm::relay::{Config, Relay};
use snippets::llm::scripted_model::{Exchange, Fault, Reply, Script, ScriptedModel};
use snippets::llm::upstream::{Dialect, Upstream};
use snippets::production::chaos_flow::{self, Cut, Flow, Plan};
use tokio_util::task::TaskTracker;

use crate::support::chaos::chaos;
use crate::support::chat::{app, events, finish, patient, relay};
use crate::support::{Server, eventually, within};

const SILENCE: Duration = Duration::from_secs(60);

fn upstream(base: &str) -> Upstream {
    let decode = |body| model_events(body, OpenAiResponses::default()).boxed();
    let upstream = Upstream::new(Dialect::OpenAiResponses, base, "key", "m", SILENCE, decode);
    upstream
        .unwrap()
        .background(|opening, kept| kept_events(opening, OpenAiResponses::default(), kept).boxed())
}

fn script() -> Script {
    let text = Reply::text("One two three „vier“ 五 👩🏽‍🚀 seven.");
    Script::reply(
        Reply {
            reasoning: vec!["Hm".into(), "mm.".into()],
            ..text
        }
        .with_call("get_weather", r#"{"city":"Zürich"}"#, 4),
    )
}

async fn read(upstream: &Upstream) -> Vec<Result<ModelEvent, ModelError>> {
    let question = json!({ "role": "user", "content": "?" });
    let events = within("the answer", upstream.open(&[question])).await;
    let events = within("its end", events.unwrap().collect::<Vec<_>>()).await;
    let beat = |event: &Result<_, _>| *event == Ok(ModelEvent::Heartbeat);
    events.into_iter().filter(|event| !beat(event)).collect()
}

fn paths(model: &ScriptedModel) -> Vec<String> {
    model.exchanges().into_iter().map(|one| one.path).collect()
}

#[tokio::test]
async fn an_answer_continues_after_every_cut() {
    let model = ScriptedModel::new(script());
    let server = Server::start(model.router()).await;
    let expected = read(&upstream(&server.url(""))).await;
    assert!(matches!(
        expected.last(),
        Some(Ok(ModelEvent::Finish { .. }))
    ));
    let request = &model.exchanges()[0].request;
    assert_eq!(
        (&request["background"], &request["store"]),
        (&json!(true), &json!(true))
    );
    let mut cuts = 0;
    // The first event ends after some 700 bytes: before, nobody knows which answer it is.
    for at in (900..6_000).step_by(311) {
        let model = ScriptedModel::new(script());
        let server = Server::start(model.router()).await;
        let cut = [Cut::Fin, Cut::Reset][at as usize % 2];
        // The connections of the question and of the first two continuations.
        let proxy = chaos(server.addr, at, move |connection| Plan {
            to_client: Flow {
                fault: (connection < 3).then_some((at..=at, chaos_flow::Fault::Cut(cut))),
                ..Flow::default()
            },
            ..Plan::default()
        });
        let proxy = proxy.await;
        let seen = read(&upstream(&format!("http://{}", proxy.addr()))).await;
        assert_eq!(seen, expected, "cut at byte {at}");
        let usage = |event: &&Result<_, _>| matches!(event, Ok(ModelEvent::Usage(_)));
        assert_eq!(seen.iter().filter(usage).count(), 1);
        let paths = paths(&model);
        assert_eq!(paths[0], "/v1/responses");
        assert!(
            paths[1..].iter().all(|path| path == "/v1/responses/resp_1"),
            "{paths:?}"
        );
        cuts += paths.len() - 1;
    }
    assert!(cuts > 20, "{cuts} cuts");
}

/// A proxy that ends a body which was cut as if it were complete; and a rest that is cut as well.
#[tokio::test]
async fn a_clean_end_before_the_last_event_is_a_cut_too() {
    let model = ScriptedModel::new(script());
    let server = Server::start(model.router()).await;
    let expected = read(&upstream(&server.url(""))).await;
    for name in ["cut", "cut-inside", "abort"] {
        model.push(script().apply(name).unwrap());
        let rest = Fault::CutBetween {
            after: 2,
            ending: snippets::llm::scripted_model::Ending::Clean,
        };
        model.push(Script::default().with_fault(rest));
        assert_eq!(read(&upstream(&server.url(""))).await, expected, "{name}");
    }
}

async fn in_background(
    script: Script,
) -> (ScriptedModel, Server, Server, Arc<Mutex<Vec<Measured>>>) {
    let model = ScriptedModel::new(script);
    let provider = Server::start(model.router()).await;
    let measured = Arc::new(Mutex::new(Vec::new()));
    let into = measured.clone();
    let report = Arc::new(move |one: &Measured| into.lock().unwrap().push(one.clone()));
    let config = Config {
        watch: measure("m", report),
        head: Duration::from_millis(1),
        ..patient()
    };
    let relay = Relay {
        model: upstream(&provider.url("")).model(),
        ..relay(&provider.url(""), config)
    };
    let server = Server::start(app(Arc::new(relay))).await;
    (model, provider, server, measured)
}

#[tokio::test]
async fn the_relay_sends_each_word_once_and_counts_the_answer_once() {
    let reply = Reply::text("One two three four five.");
    let cut = Script::reply(reply).apply("abort").unwrap();
    let (model, _provider, server, measured) = in_background(cut).await;
    let mut client = crate::support::chat::ask(server.addr).await;
    finish(&mut client).await;
    let seen = events(&client.body());
    let text = |(name, data): &(String, String)| {
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        (name == "text").then(|| data["text"].as_str().unwrap().to_owned())
    };
    let text: String = seen.iter().filter_map(text).collect();
    assert_eq!(text, "One two three four five.");
    assert_eq!(seen.last().unwrap().0, "done");
    eventually("a report", || !measured.lock().unwrap().is_empty()).await;
    let measured = measured.lock().unwrap();
    assert_eq!(measured.len(), 1);
    assert_eq!(measured[0].outcome, Outcome::Done(FinishReason::Stop));
    assert_eq!(measured[0].output_tokens(), (5, false));
    assert_eq!(paths(&model), ["/v1/responses", "/v1/responses/resp_1"]);
}

/// Closing the connection does not stop such an answer.
#[tokio::test]
async fn stop_cancels_it_while_it_writes_and_before_its_first_event() {
    for fault in [Fault::Stall { after: 1 }, Fault::HoldHead] {
        let (model, _provider, server, measured) =
            in_background(Script::reply(Reply::text("One two.")).with_fault(fault)).await;
        let mut client = crate::support::chat::ask(server.addr).await;
        let first = if fault == Fault::HoldHead {
            "retry: "
        } else {
            "One "
        };
        within("the response", client.read_until(first)).await;
        let asked = |one: &Exchange| one.path == "/v1/responses";
        within("the question", model.wait_for(asked)).await;
        drop(client);
        eventually("a report", || !measured.lock().unwrap().is_empty()).await;
        assert_eq!(measured.lock().unwrap()[0].outcome, Outcome::Cancelled);
        if fault == Fault::HoldHead {
            model.release(); // its id is in the first event
        }
        let cancelled = |one: &Exchange| one.path == "/v1/responses/resp_1/cancel";
        within("the cancellation", model.wait_for(cancelled)).await;
    }
}

#[tokio::test]
async fn a_complete_answer_is_not_cancelled() {
    let model = ScriptedModel::new(script());
    let server = Server::start(model.router()).await;
    let upstream = upstream(&server.url(""));
    read(&upstream).await;
    upstream.cancels.close();
    within("no cancellation", upstream.cancels.wait()).await;
    assert_eq!(paths(&model), ["/v1/responses"]);
    let method =
        |method: Method| reqwest::Client::new().request(method, server.url("/v1/responses/resp_9"));
    let unknown = within("the model", method(Method::GET).send()).await;
    assert_eq!(unknown.unwrap().status(), 404);
}

/// Requests for the rest and to cancel.
type Counts = Arc<(AtomicU32, AtomicU32)>;

fn kept(answer: fn() -> Result<Body, ModelError>) -> (Kept, Counts) {
    let counts = Counts::default();
    let (rests, cancels) = (counts.clone(), counts.clone());
    let kept = Kept {
        rest: Arc::new(move |_, _| {
            rests.0.fetch_add(1, Ordering::SeqCst);
            future::ready(answer()).boxed()
        }),
        cancel: Arc::new(move |_| {
            cancels.1.fetch_add(1, Ordering::SeqCst);
            future::ready(Err(status(503))).boxed()
        }),
        attempts: 4,
        backoff: Duration::from_secs(1),
        tasks: TaskTracker::new(),
    };
    (kept, counts)
}

fn status(status: u16) -> ModelError {
    ModelError::Status {
        status,
        retry_after: None,
        body: String::new(),
    }
}

const FIRST: &str =
    "data: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"r\"}}\n\n";

fn body(text: &'static str) -> Body {
    stream::iter([Ok(Bytes::from(text))]).boxed()
}

#[tokio::test(start_paused = true)]
async fn the_requests_for_the_rest_are_bounded() {
    let empty = || Ok(body(": nothing new\n\n"));
    for (answer, begun, requests, cancels) in [
        ((|| Err(status(503))) as fn() -> _, FIRST, 4, 4),
        (empty, FIRST, 4, 4),
        (|| Err(status(404)), FIRST, 1, 4),
        // Without an event, there is nothing to continue and nothing to cancel.
        (|| Err(status(503)), "", 0, 0),
    ] {
        let (kept, counts) = kept(answer);
        let opening = future::ready(Ok(body(begun))).boxed();
        let events = kept_events(opening, OpenAiResponses::default(), kept.clone());
        let events: Vec<_> = events.await.unwrap().collect().await;
        assert_eq!(events.last(), Some(&Err(ModelError::Truncated)));
        kept.tasks.close();
        kept.tasks.wait().await;
        let counts = (
            counts.0.load(Ordering::SeqCst),
            counts.1.load(Ordering::SeqCst),
        );
        assert_eq!(counts, (requests, cancels));
    }
    let opening = future::ready(Err(status(401))).boxed();
    let (kept, counts) = kept(empty);
    let refused = kept_events(opening, OpenAiResponses::default(), kept.clone()).await;
    assert_eq!(refused.err(), Some(status(401)));
    kept.tasks.close();
    kept.tasks.wait().await;
    assert_eq!(counts.1.load(Ordering::SeqCst), 0);
}
