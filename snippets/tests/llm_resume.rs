//! Tests of `llm/resume`.

use std::sync::Arc;
use std::time::Duration;

use axum::{middleware, response::IntoResponse};
use serde_json::json;
use snippets::connections::per_user::PerUser;
use snippets::llm::relay::{Config, Relay};
use snippets::llm::resume::{Generations, Limits, app};
use snippets::llm::scripted_model::{ExchangeEnd, Fault, Reply, Script, ScriptedModel};
use snippets::sse::event::Ids;

use crate::support::chat::{as_user, events, finish, patient, post, question, relay_with};
use crate::support::raw::End;
use crate::support::{RawClient, Server, Transcript, eventually, within};

struct Resumable {
    model: ScriptedModel,
    _provider: Server,
    places: PerUser,
    relay: Arc<Relay>,
    all: Arc<Generations>,
    server: Server,
}

fn limits() -> Limits {
    Limits {
        most: 8,
        per_user: 8,
        keep: Duration::from_secs(60),
        abandon: Duration::from_secs(60),
        ..Limits::default()
    }
}

fn stalls_after(after: usize) -> Script {
    Script::reply(Reply::text("one two three four")).with_fault(Fault::Stall { after })
}

impl Resumable {
    async fn start(script: Script, limits: Limits) -> Self {
        Self::with(script, limits, patient()).await
    }

    async fn with(script: Script, limits: Limits, config: Config) -> Self {
        let model = ScriptedModel::new(script);
        let provider = Server::start(model.router()).await;
        let places = PerUser::new(3);
        let relay = Arc::new(relay_with(&provider.url(""), config, &places));
        let (streams, permits) = (relay.streams.clone(), places.permits());
        let all = Generations::new(streams, permits, limits, relay.shutdown.clone());
        let asked = relay.clone();
        let app = app(all.clone(), move |user, question| {
            asked.events(user, question)
        });
        let server = Server::start(app.layer(middleware::from_fn(as_user))).await;
        Self {
            model,
            _provider: provider,
            places,
            relay,
            all,
            server,
        }
    }

    async fn ask(&self, key: &str) -> RawClient {
        let key = format!("idempotency-key: {key}");
        post(
            self.server.addr,
            "/generations",
            &question(),
            &["connection: close", &key],
        )
        .await
    }

    async fn attach(&self, key: &str, headers: &[&str]) -> RawClient {
        let mut all = vec!["connection: close"];
        all.extend(headers);
        RawClient::get(self.server.addr, &format!("/generations/{key}"), &all).await
    }

    async fn stop(&self, key: &str, headers: &[&str]) -> u16 {
        let mut client = RawClient::connect(self.server.addr).await;
        client
            .send_request("DELETE", &format!("/generations/{key}"), headers)
            .await;
        client.read_head().await;
        client.status()
    }

    async fn ended(&self) -> ExchangeEnd {
        let exchange = within(
            "the provider to see the end",
            self.model.wait_for(|exchange| exchange.end.is_some()),
        )
        .await;
        exchange.end.unwrap()
    }
}

/// The id of the last event in `body`.
fn last_id(body: &str) -> String {
    let id = body
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("id: "));
    format!("last-event-id: {}", id.unwrap())
}

#[tokio::test]
async fn a_reader_that_comes_back_gets_the_rest() {
    let chat = Resumable::start(stalls_after(2), limits()).await;
    let mut transcript = Transcript::new();
    let mut first = chat.ask("q-1").await;
    first.read_until("two").await;
    first.read_until("\n\n").await;
    let cursor = last_id(&first.body());
    transcript
        .request(&format!(
            "POST /generations HTTP/1.1\nidempotency-key: q-1\n\n{}",
            question()
        ))
        .response(&first);
    drop(first);
    transcript.note("the network is lost; the model continues");
    chat.model.release();
    assert_eq!(chat.ended().await, ExchangeEnd::Finished);
    let mut second = chat.attach("q-1", &[&cursor]).await;
    finish(&mut second).await;
    transcript
        .request(&format!("GET /generations/q-1 HTTP/1.1\n{cursor}"))
        .response(&second);
    let cursor = last_id(&second.body());
    let mut third = chat.attach("q-1", &[&cursor]).await;
    third.read_to_end().await;
    assert_eq!(third.status(), 204, "it has everything: EventSource stops");
    assert_eq!(chat.model.exchanges().len(), 1);
    let filters = vec![
        (r"retry: \d+", "retry: [random]"),
        (r"event: ping\ndata: \{\}\n\n", ""),
        ("connection: close\n", ""),
        (r"\b[0-9a-f]{9,16}-", "[epoch]-"),
    ];
    insta::with_settings!({filters => filters}, {
        insta::assert_snapshot!(transcript.finish());
    });
}

#[tokio::test]
async fn posts_with_one_key_join_one_generation() {
    let chat = Resumable::start(stalls_after(2), limits()).await;
    let mut readers = futures::future::join_all((0..5).map(|_| chat.ask("same"))).await;
    for reader in &mut readers {
        reader.read_until("two").await;
    }
    assert_eq!(chat.model.exchanges().len(), 1, "asked once, paid once");
    chat.model.release();
    let mut bodies = Vec::new();
    for reader in &mut readers {
        assert_eq!(reader.read_to_end().await, End::Complete);
        bodies.push(events(&reader.body()));
    }
    bodies.push({
        let mut late = chat.ask("same").await;
        finish(&mut late).await;
        events(&late.body())
    });
    assert!(
        bodies
            .iter()
            .all(|body| *body == bodies[0] && body.len() == 5),
        "{bodies:?}"
    );

    // A key is one question's; without one there is nothing to join.
    let other =
        json!({ "messages": [{ "role": "user", "content": "Something else" }] }).to_string();
    for (headers, status) in [
        (vec!["idempotency-key: same"], 422),
        (vec![], 400),
        (vec!["idempotency-key: a/b"], 400),
    ] {
        let mut client = post(chat.server.addr, "/generations", &other, &headers).await;
        client.read_head().await;
        assert_eq!(client.status(), status);
    }
    assert_eq!(chat.model.exchanges().len(), 1);
}

#[tokio::test]
async fn a_disconnect_does_not_stop_it_and_stop_does() {
    let chat = Resumable::start(stalls_after(2), limits()).await;
    let mut first = chat.ask("k").await;
    first.read_until("two").await;
    drop(first);
    let mut second = chat.attach("k", &[]).await;
    second.read_until("two").await;
    assert_eq!(chat.model.exchanges()[0].end, None, "it goes on");
    assert_eq!(chat.stop("k", &[]).await, 204);
    assert_eq!(
        chat.ended().await,
        ExchangeEnd::ReaderGone,
        "although the model is silent"
    );
    assert_eq!(second.read_to_end().await, End::Complete);
    let last = events(&second.body()).pop().unwrap();
    assert_eq!(
        last,
        (
            "failed".to_owned(),
            r#"{"code":"stopped","retryable":false}"#.to_owned()
        )
    );
    assert_eq!(chat.stop("k", &[]).await, 204, "again: nothing changes");
    assert_eq!(chat.model.exchanges()[0].tokens, 2);
}

#[tokio::test]
async fn stop_also_works_before_the_provider_has_answered() {
    let chat = Resumable::start(Script::default().with_fault(Fault::HoldHead), limits()).await;
    let mut reader = chat.ask("k").await;
    within("the model to be asked", chat.model.wait_for(|_| true)).await;
    assert_eq!(chat.stop("k", &[]).await, 204);
    assert_eq!(chat.ended().await, ExchangeEnd::ReaderGone);
    finish(&mut reader).await;
    assert_eq!(events(&reader.body()).len(), 1);
}

#[tokio::test]
async fn a_generation_of_another_user_does_not_exist() {
    let chat = Resumable::start(stalls_after(2), limits()).await;
    let mut mine = chat.ask("secret").await;
    mine.read_until("two").await;
    let mut theirs = chat.attach("secret", &["x-user: mallory"]).await;
    let mut nothing = chat.attach("nothing", &["x-user: mallory"]).await;
    theirs.read_to_end().await;
    nothing.read_to_end().await;
    let head = |client: &RawClient| {
        client
            .head()
            .lines()
            .filter(|line| !line.starts_with("date"))
            .collect::<String>()
    };
    assert_eq!(
        (theirs.status(), head(&theirs)),
        (404, head(&nothing)),
        "not even that it exists"
    );
    // The same for every key that is not theirs; it concerns their own key only.
    assert_eq!(chat.stop("secret", &["x-user: mallory"]).await, 204);
    assert_eq!(chat.stop("nothing", &["x-user: mallory"]).await, 204);
    assert_eq!(chat.model.exchanges()[0].end, None);
    // A post with the same key is the poster's own generation.
    let mut own = post(
        chat.server.addr,
        "/generations",
        &question(),
        &["idempotency-key: secret", "x-user: bob"],
    )
    .await;
    own.read_until("two").await;
    assert_eq!(chat.model.exchanges().len(), 2);
}

#[tokio::test]
async fn nobody_watching_for_long_enough_stops_it() {
    let abandon = Duration::from_millis(100);
    let chat = Resumable::start(
        stalls_after(2),
        Limits {
            abandon,
            ..limits()
        },
    )
    .await;
    let mut reader = chat.ask("k").await;
    reader.read_until("two").await;
    // Watched, it lives for many times the limit: heartbeats come every 50 ms.
    for _ in 0..6 {
        let pings = reader.body().matches("event: ping").count();
        within("a heartbeat", async {
            while reader.body().matches("event: ping").count() == pings {
                reader.read_some().await;
            }
        })
        .await;
    }
    assert_eq!(chat.model.exchanges()[0].end, None);
    drop(reader);
    assert_eq!(chat.ended().await, ExchangeEnd::ReaderGone);
    let mut late = chat.attach("k", &[]).await;
    finish(&mut late).await;
    assert!(late.body().contains(r#""code":"abandoned""#));
}

#[tokio::test]
async fn what_has_ended_is_forgotten_after_its_time_and_counted_until_then() {
    let keep = Duration::from_millis(50);
    let chat = Resumable::start(
        Script::reply(Reply::text("short")),
        Limits { keep, ..limits() },
    )
    .await;
    finish(&mut chat.ask("k").await).await;
    eventually("it to be forgotten", || chat.all.count() == 0).await;
    let mut late = chat.attach("k", &[]).await;
    late.read_to_end().await;
    assert_eq!(late.status(), 404);

    let chat = Resumable::start(
        stalls_after(1),
        Limits {
            most: 2,
            ..limits()
        },
    )
    .await;
    let mut kept = Vec::new();
    for key in ["a", "b"] {
        let mut reader = chat.ask(key).await;
        reader.read_until("one").await;
        kept.push(reader);
    }
    let mut third = chat.ask("c").await;
    third.read_to_end().await;
    assert_eq!(third.status(), 503);
    assert!(third.head().contains("retry-after: "));
    let mut joins = chat.ask("a").await;
    joins.read_until("one").await;
    assert_eq!((joins.status(), chat.model.exchanges().len()), (200, 2));
}

#[tokio::test]
async fn a_users_places_are_held_by_generations_not_by_readers() {
    let chat = Resumable::start(stalls_after(1), limits()).await;
    for key in ["a", "b", "c"] {
        let mut reader = chat.ask(key).await;
        reader.read_until("one").await;
    }
    let mut fourth = chat.ask("d").await;
    fourth.read_to_end().await;
    assert_eq!(fourth.status(), 429, "three run although nobody reads");
    chat.model.release();
    eventually("the places to be free", || chat.places.users() == 0).await;
    assert_eq!(chat.all.count(), 3, "kept for those who come back");
}

#[tokio::test]
async fn failures_and_the_shutdown_end_in_band_and_the_tasks_end() {
    let chat = Resumable::start(
        Script::default().with_fault(Fault::Status {
            status: 429,
            retry_after: Some(7),
        }),
        limits(),
    )
    .await;
    let mut client = chat.ask("k").await;
    finish(&mut client).await;
    assert_eq!(
        events(&client.body()).pop().unwrap().1,
        r#"{"code":"rate_limited","retryable":true,"retry_after":7}"#
    );

    chat.model.set_default(stalls_after(1));
    let mut client = chat.ask("l").await;
    client.read_until("one").await;
    chat.relay.shutdown.cancel();
    finish(&mut client).await;
    assert!(client.body().contains(r#""code":"restart""#));
    chat.all.tasks.close();
    within("the tasks to end", chat.all.tasks.wait()).await;
    assert_eq!(chat.all.count(), 0);
}

#[tokio::test]
async fn a_task_that_dies_leaves_a_log_that_has_ended() {
    use snippets::llm::generation::{Answer, Generation};
    use snippets::sse::event::LastEventId;
    use snippets::sse::streams::Source;
    let chat = Resumable::start(stalls_after(1), limits()).await;
    let generation = Generation::new(100_000, Ids::Epoch, "reset");
    let mut source = generation.read(&LastEventId::None).unwrap();
    let (running, relay) = (generation.clone(), chat.relay.clone());
    let question = serde_json::from_str(&question()).unwrap();
    let answer = relay.events("alice".to_owned(), question).unwrap();
    // Generic, as in `Generations`: the compiler cannot tell that the closure's own type is `Send` here.
    fn spawn(running: Arc<Generation>, answer: impl Answer) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { running.run(answer, (), Duration::from_secs(60)).await })
    }
    let task = spawn(running, answer);
    let mut next = async || {
        let chunk = std::future::poll_fn(|cx| source.poll(cx));
        let chunk = within("an event", chunk).await?;
        Some((String::from_utf8(chunk.bytes.to_vec()).unwrap(), chunk.last))
    };
    assert!(next().await.unwrap().0.contains(r#"{"text":"one "}"#));
    task.abort();
    let (last, terminal) = next().await.unwrap();
    assert!(
        last.contains("event: failed") && last.contains("model_failed"),
        "{last}"
    );
    assert!(terminal && next().await.is_none());
    assert!(generation.has_ended());
}

#[tokio::test]
async fn a_post_that_is_sent_again_continues_after_its_cursor() {
    let chat = Resumable::start(stalls_after(2), limits()).await;
    let mut first = chat.ask("k").await;
    first.read_until("two").await;
    first.read_until("\n\n").await;
    let cursor = last_id(&first.body());
    drop(first);
    chat.model.release();
    let headers = ["connection: close", "idempotency-key: k", &cursor];
    let mut again = post(chat.server.addr, "/generations", &question(), &headers).await;
    finish(&mut again).await;
    let texts: Vec<_> = events(&again.body())
        .into_iter()
        .map(|(_, data)| data)
        .collect();
    assert_eq!(&texts[..2], [r#"{"text":"three "}"#, r#"{"text":"four"}"#]);
    assert_eq!(chat.model.exchanges().len(), 1);
}

#[tokio::test]
async fn nothing_is_asked_before_it_is_admitted() {
    // No stream is free.
    let chat = Resumable::start(stalls_after(1), limits()).await;
    let mut open = Vec::new();
    while let Ok(slot) = chat.relay.streams.admit() {
        open.push(slot);
    }
    let mut refused = chat.ask("k").await;
    refused.read_to_end().await;
    assert_eq!(refused.status(), 503);
    assert_eq!((chat.model.exchanges().len(), chat.all.count()), (0, 0));
    open.clear();
    // A drain has begun.
    chat.relay.shutdown.cancel();
    let mut refused = chat.ask("k").await;
    refused.read_to_end().await;
    assert_eq!(refused.status(), 503);
    assert!(refused.body().contains("restart"));
    assert_eq!((chat.model.exchanges().len(), chat.all.count()), (0, 0));
    assert_eq!(chat.places.users(), 0);
}

#[tokio::test]
async fn one_user_cannot_take_the_room_of_another() {
    let limits = Limits {
        most: 4,
        per_user: 2,
        ..limits()
    };
    let chat = Resumable::start(Script::reply(Reply::text("short")), limits).await;
    for n in 0..6 {
        finish(&mut chat.ask(&format!("k{n}")).await).await;
        eventually("the permit to be free", || chat.places.users() == 0).await;
    }
    assert_eq!(chat.all.count(), 2, "the user's own oldest made room");
    let mut oldest = chat.attach("k0", &[]).await;
    oldest.read_to_end().await;
    assert_eq!(oldest.status(), 404);
    let mut newest = chat.attach("k5", &[]).await;
    finish(&mut newest).await;
    assert_eq!(newest.status(), 200);
    for user in ["bob", "carol", "dave"] {
        let headers = [
            "connection: close",
            "idempotency-key: k",
            &format!("x-user: {user}"),
        ];
        let mut other = post(chat.server.addr, "/generations", &question(), &headers).await;
        finish(&mut other).await;
        assert_eq!(
            other.status(),
            200,
            "{user}: what has ended makes room for what is asked"
        );
    }
}

#[tokio::test]
async fn a_stop_that_comes_before_its_question_is_remembered() {
    let chat = Resumable::start(stalls_after(1), limits()).await;
    assert_eq!(chat.stop("early", &[]).await, 204);
    // There is no answer to read, although the Stop is remembered.
    let mut nothing = chat.attach("early", &["connection: close"]).await;
    nothing.read_to_end().await;
    assert!(
        nothing.head().starts_with("HTTP/1.1 404"),
        "{}",
        nothing.head()
    );
    let mut late = chat.ask("early").await;
    finish(&mut late).await;
    assert!(
        late.body().contains(r#""code":"stopped""#),
        "{}",
        late.body()
    );
    assert!(chat.model.exchanges().is_empty(), "nothing was paid for");
    // Remembered Stops count as kept: they cannot fill the memory.
    for n in 0..20 {
        assert_eq!(chat.stop(&format!("s{n}"), &[]).await, 204);
    }
    assert!(chat.all.count() <= 8, "{}", chat.all.count());
}

#[tokio::test]
async fn paths_header_ids_reset_and_refusals_are_the_contracts() {
    let limits = Limits {
        path: "/v2/answers",
        key_header: "x-answer-id",
        ids: Ids::Sequence,
        reset: "resync",
        refuse: |refused| {
            let body = json!({ "error": refused.code });
            (refused.status, axum::Json(body)).into_response()
        },
        ..limits()
    };
    let chat = Resumable::start(Script::reply(Reply::text("one two")), limits).await;
    let addr = chat.server.addr;
    let headers = ["connection: close", "x-answer-id: a"];
    let mut first = post(addr, "/v2/answers", &question(), &headers).await;
    finish(&mut first).await;
    let ids: Vec<_> = first
        .body()
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .map(str::to_owned)
        .collect();
    assert_eq!(ids, ["0", "1", "2", "3"]);
    for (path, cursor, status, body) in [
        ("/v2/answers/a", "last-event-id: 9", 200, "event: resync\n"),
        (
            "/v2/answers/b",
            "accept: */*",
            404,
            r#"{"error":"unknown_answer"}"#,
        ),
    ] {
        let mut client = RawClient::get(addr, path, &["connection: close", cursor]).await;
        client.read_to_end().await;
        assert_eq!(client.status(), status);
        assert!(client.body().contains(body), "{}", client.body());
    }
    let mut keyless = post(addr, "/v2/answers", &question(), &["connection: close"]).await;
    keyless.read_to_end().await;
    assert_eq!(
        (keyless.status(), keyless.body()),
        (400, r#"{"error":"invalid_key"}"#.to_owned())
    );
}

/// With `hold_head`, as with `llm/relay` alone: a refusal is a status, and the same key may ask again.
#[tokio::test]
async fn a_refusal_of_the_provider_can_be_a_status() {
    let limits = Limits {
        hold_head: true,
        ..limits()
    };
    let chat = Resumable::start(Script::reply(Reply::text("one two")), limits).await;
    let refused = Fault::Status {
        status: 429,
        retry_after: Some(7),
    };
    chat.model.push(Script::default().with_fault(refused));
    let mut first = chat.ask("k").await;
    first.read_to_end().await;
    assert_eq!(first.status(), 429);
    assert!(first.head().contains("retry-after: 7"), "{}", first.head());
    assert!(first.body().contains(r#""code":"rate_limited""#));
    eventually("the key to be unused", || chat.all.count() == 0).await;
    let mut again = chat.ask("k").await;
    finish(&mut again).await;
    assert!(again.body().contains("event: done"));
    assert_eq!(chat.model.exchanges().len(), 2);
    // The places of both are free.
    let places = chat.places.permits();
    assert!(
        [(); 3]
            .map(|()| places("alice").is_some())
            .iter()
            .all(|free| *free)
    );
}
