//! `sse/consume`: what is read, what is tried again and when, and where two crates go wrong.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request as HttpRequest, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures::{FutureExt, StreamExt, stream};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use snippets::sse::consume::{End, EventSource};
use snippets::sse::reconnect::{Policy, Reconnect, Request, Verdict};
use snippets::sse::transports::{over_hyper, over_reqwest};
use snippets::sse::wire::Limits;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::{Server, Transcript, within};

fn answer(status: u16, content_type: &str, body: &'static str) -> Response {
    (
        StatusCode::from_u16(status).unwrap(),
        [(header::CONTENT_TYPE, content_type)],
        body,
    )
        .into_response()
}

fn stream_of(body: &'static str) -> Response {
    answer(200, "text/event-stream", body)
}

type Script = Arc<Mutex<VecDeque<Response>>>;
type Requests = Arc<Mutex<Vec<HeaderMap>>>;

/// A transport that gives the scripted answers in order and keeps the headers it was asked with.
fn scripted(
    script: impl IntoIterator<Item = Response>,
) -> (
    impl FnMut(HeaderMap) -> std::future::Ready<Result<Response, Infallible>>,
    Requests,
) {
    let mut script: VecDeque<Response> = script.into_iter().collect();
    let requests = Requests::default();
    let kept = requests.clone();
    let connect = move |headers| {
        kept.lock().unwrap().push(headers);
        std::future::ready(Ok(script.pop_front().expect("one request too many")))
    };
    (connect, requests)
}

fn once() -> Policy {
    Policy {
        request: Request::Once,
        ..Policy::default()
    }
}

macro_rules! source {
    ($policy:expr, $script:expr) => {{
        let (connect, requests) = scripted($script);
        (
            EventSource::new($policy, Limits::default(), connect),
            requests,
        )
    }};
}

/// The data of the next event.
macro_rules! next {
    ($source:expr) => {{
        // A day of paused time is no time.
        let event = tokio::time::timeout(Duration::from_secs(24 * 3600), $source.next()).await;
        event
            .expect("an event")
            .map(|event| event.map(|event| event.data))
    }};
}

fn cursor(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("last-event-id").map(|id| id.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn it_comes_back_with_the_cursor_and_stops_at_204() {
    let (mut source, requests) = source!(
        Policy::default(),
        [
            stream_of("id: 1\ndata: a\n\nid: é2\n\nid: 3\ndata: unfinished\n"),
            stream_of("data: b\n\nid\n\n"),
            answer(204, "text/event-stream", ""),
        ]
    );
    assert_eq!(next!(source).unwrap().unwrap(), "a");
    assert_eq!(next!(source).unwrap().unwrap(), "b");
    assert!(next!(source).unwrap().is_none());
    assert!(next!(source).unwrap().is_none(), "it stays finished");
    let requests = requests.lock().unwrap();
    let cursors: Vec<_> = requests.iter().map(cursor).collect();
    // The id of a block without data counts, that of the unfinished event does not; an empty id clears it.
    assert_eq!(cursors, [None, Some("é2".as_bytes()), None]);
    assert_eq!(requests[0][header::ACCEPT], "text/event-stream");
}

#[tokio::test(start_paused = true)]
async fn an_earlier_run_is_continued() {
    let (source, requests) = source!(Policy::default(), [stream_of("data: a\n\n")]);
    let mut source = source.resume_after("7");
    let event = within("an event", source.next()).await.unwrap().unwrap();
    assert_eq!(
        (event.event_type.as_str(), event.last_event_id.as_str()),
        ("message", "7")
    );
    assert_eq!(cursor(&requests.lock().unwrap()[0]), Some(&b"7"[..]));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_event_stream_is_not_read() {
    for content_type in [
        "text/html",
        "application/json",
        "text/event-streams",
        "x bogus",
        "",
    ] {
        let (mut source, _) = source!(
            Policy::default(),
            [answer(200, content_type, "data: no\n\n")]
        );
        assert!(
            matches!(next!(source), Err(End::NotAnEventStream)),
            "{content_type}"
        );
    }
    for content_type in [
        "text/event-stream; charset=utf-8",
        "Text/Event-Stream",
        "text/event-stream;",
    ] {
        let (mut source, _) = source!(
            Policy::default(),
            [answer(200, content_type, "data: a\n\n")]
        );
        assert_eq!(next!(source).unwrap().unwrap(), "a", "{content_type}");
    }
}

#[tokio::test(start_paused = true)]
async fn which_statuses_are_tried_again() {
    for (status, resume, sent_once) in [
        (400, false, false),
        (401, false, false),
        (403, false, false),
        (404, false, false),
        (408, true, false),
        (410, false, false),
        (425, true, false),
        (429, true, true),
        (500, true, false),
        (501, false, false),
        (502, true, false),
        (503, true, false),
        (504, true, false),
        (520, true, false),
        (530, true, false),
        (531, false, false),
        (205, false, false),
        (301, false, false),
    ] {
        for (policy, again) in [(Policy::default(), resume), (once(), sent_once)] {
            let response = answer(status, "text/event-stream", "");
            let verdict = Reconnect::new(policy).judge(&response);
            let expected = if again {
                Verdict::Retry(None)
            } else {
                Verdict::Refused
            };
            assert_eq!(verdict, expected, "{status}");
        }
    }
    let (mut source, _) = source!(Policy::default(), [answer(401, "text/plain", "no")]);
    assert!(matches!(
        next!(source),
        Err(End::Status(StatusCode::UNAUTHORIZED))
    ));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for_within_a_bound() {
    let busy = |value: &'static str| {
        let mut response = answer(503, "text/plain", "");
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, value.parse().unwrap());
        response
    };
    let begin = Instant::now();
    let (mut source, _) = source!(Policy::default(), [busy("60"), stream_of("data: a\n\n")]);
    next!(source).unwrap();
    let waited = begin.elapsed();
    assert!((60..=61).contains(&waited.as_secs()), "{waited:?}");

    let begin = Instant::now();
    let (mut source, _) = source!(
        Policy::default(),
        [busy("999999"), stream_of("data: a\n\n")]
    );
    next!(source).unwrap();
    assert!((120..=121).contains(&begin.elapsed().as_secs()));

    // A date that has passed is now; nonsense is nothing.
    for value in ["Sun, 06 Nov 1994 08:49:37 GMT", "soon", "-5"] {
        let begin = Instant::now();
        let (mut source, _) = source!(Policy::default(), [busy(value), stream_of("data: a\n\n")]);
        next!(source).unwrap();
        assert!(begin.elapsed() <= Duration::from_secs(1), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn waits_are_jittered_doubled_and_reset_only_by_a_stable_stream() {
    let policy = Policy::default();
    let waits = |failures: u32| -> Vec<Duration> {
        (0..200)
            .map(|_| {
                let mut reconnect = Reconnect::new(policy.clone());
                for _ in 0..failures {
                    reconnect.wait(None, None).unwrap();
                }
                reconnect.wait(None, None).unwrap()
            })
            .collect()
    };
    for (failures, ceiling) in [(0, 500), (1, 1_000), (3, 4_000), (12, 120_000)] {
        let waits = waits(failures);
        let most = waits.iter().max().unwrap().as_millis() - 500;
        let least = waits.iter().min().unwrap().as_millis();
        assert!(least >= 500, "the least wait: {least}");
        // 200 draws cover the whole range of the random part.
        assert!(
            most <= ceiling && most > ceiling * 3 / 4,
            "{failures}: {most}"
        );
        assert!(least < 500 + ceiling / 4, "{failures}: {least}");
    }

    // A server that accepts, sends an event and fails is not hammered at the shortest wait.
    let mut flapping = Reconnect::new(policy.clone());
    for _ in 0..6 {
        assert_eq!(flapping.judge(&stream_of("")), Verdict::Read);
        tokio::time::advance(Duration::from_secs(29)).await;
        flapping.wait(None, None).unwrap();
    }
    assert_eq!(flapping.failures(), 6);
    assert_eq!(flapping.judge(&stream_of("")), Verdict::Read);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(flapping.wait(None, None).unwrap() <= Duration::from_secs(1));
    assert_eq!(flapping.failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_streams_retry_counts_within_bounds() {
    for (retry, least, most) in [
        (0, 500, 1_000),
        (10_000, 10_000, 20_000),
        (u64::MAX, 30_000, 60_000),
    ] {
        for _ in 0..200 {
            let retry = Some(Duration::from_millis(retry));
            let wait = Reconnect::new(Policy::default()).wait(None, retry).unwrap();
            // Never earlier than the server asked.
            assert!((least..=most).contains(&wait.as_millis()), "{wait:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_gives_up_after_many_failures_in_a_row() {
    let policy = Policy {
        attempts: 3,
        ..Policy::default()
    };
    let failures = (0..4).map(|_| answer(502, "text/html", "<h1>Bad gateway</h1>"));
    let (mut source, requests) = source!(policy, failures);
    assert!(matches!(next!(source), Err(End::GaveUp(why)) if why.contains("502")));
    assert_eq!(requests.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_response_and_a_long_one_does_not() {
    // An event each 40 s for an hour: below the idle timeout of 45 s each time.
    let ticks = stream::unfold(0_u32, |n| async move {
        tokio::time::sleep(Duration::from_secs(40)).await;
        (n < 90).then(|| {
            (
                Ok::<_, Infallible>(format!("id: {n}\ndata: {n}\n\n")),
                n + 1,
            )
        })
    });
    let silent = stream::once(async { Ok::<_, Infallible>("data: then nothing\n\n") })
        .chain(stream::pending());
    let respond = |body| {
        Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream")
            .body(body)
            .unwrap()
    };
    let script = [
        respond(Body::from_stream(ticks)),
        respond(Body::from_stream(silent)),
        stream_of("data: again\n\n"),
    ];
    let (mut source, requests) = source!(Policy::default(), script);
    for n in 0..90 {
        let event = source.next().await.unwrap().unwrap();
        assert_eq!(event.data, n.to_string());
    }
    assert_eq!(requests.lock().unwrap().len(), 1, "an hour on one response");
    assert_eq!(source.next().await.unwrap().unwrap().data, "then nothing");
    let begin = Instant::now();
    assert_eq!(source.next().await.unwrap().unwrap().data, "again");
    let silence = begin.elapsed().as_secs();
    assert!((45..48).contains(&silence), "{silence}");
    assert_eq!(cursor(&requests.lock().unwrap()[2]), Some(&b"89"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_peer_cannot_make_it_hold_more_than_the_limits() {
    let endless = stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 4096])));
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .body(Body::from_stream(endless))
        .unwrap();
    let (mut source, requests) = source!(Policy::default(), [response]);
    assert!(matches!(next!(source), Err(End::TooLarge(_))));
    assert_eq!(
        requests.lock().unwrap().len(),
        1,
        "it would be the same next time"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_work_is_sent_once() {
    // The end is the end.
    let (mut source, requests) = source!(once(), [stream_of("data: a\n\ndata: [DONE]\n\n")]);
    assert_eq!(next!(source).unwrap().unwrap(), "a");
    assert_eq!(next!(source).unwrap().unwrap(), "[DONE]");
    assert!(next!(source).unwrap().is_none());
    assert!(next!(source).unwrap().is_none());
    assert_eq!(requests.lock().unwrap().len(), 1);

    // Cut off, it is not known what has been done.
    let cut = stream::iter([
        Ok("data: a\n\n"),
        Err(std::io::Error::other("reset by peer")),
    ]);
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .body(Body::from_stream(cut))
        .unwrap();
    let (mut source, requests) = source!(once(), [response]);
    assert_eq!(next!(source).unwrap().unwrap(), "a");
    assert!(matches!(next!(source), Err(End::Cut(_))));
    assert_eq!(requests.lock().unwrap().len(), 1);

    // Refused by a rate limit, before any work.
    let (mut source, requests) = source!(
        once(),
        [answer(429, "text/plain", ""), stream_of("data: a\n\n")]
    );
    assert_eq!(next!(source).unwrap().unwrap(), "a");
    assert_eq!(requests.lock().unwrap().len(), 2);
}

/// The usual way to read a stream in a task that does other things too: `select!` in a loop.
#[tokio::test(start_paused = true)]
async fn next_may_be_dropped_and_called_again() {
    let sent = Arc::new(Mutex::new(0));
    let count = sent.clone();
    let connect = move |_| {
        *count.lock().unwrap() += 1;
        async {
            // Longer than the tick.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let body = stream::once(async { Ok::<_, Infallible>("data: hi\n\n") });
            let response = Response::builder().header(header::CONTENT_TYPE, "text/event-stream");
            let body = Body::from_stream(body.chain(stream::pending()));
            Ok::<_, Infallible>(response.body(body).unwrap())
        }
    };
    for policy in [once(), Policy::default()] {
        *sent.lock().unwrap() = 0;
        let mut source = EventSource::new(policy, Limits::default(), connect.clone());
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let started = Instant::now();
        let mut next = async || loop {
            tokio::select! {
                event = source.next() => return event,
                _ = tick.tick() => {}
            }
        };
        assert_eq!(next().await.unwrap().unwrap().data, "hi");
        assert!(started.elapsed() < Duration::from_millis(400));
        assert_eq!(*sent.lock().unwrap(), 1);
        // Silence is noticed too: 45 s after the event, however often the future was dropped.
        let silent = Instant::now();
        match next().await {
            Err(End::Cut(why)) => assert!(why.contains("silent"), "{why}"),
            again => assert_eq!(again.unwrap().unwrap().data, "hi"),
        }
        let silent = silent.elapsed().as_secs();
        assert!((45..49).contains(&silent), "{silent}");
    }
}

/// A caller that was away for longer than the idle timeout gets what came meanwhile.
#[tokio::test(start_paused = true)]
async fn a_caller_that_was_away_loses_nothing() {
    let late = stream::iter(0..3).then(|n| async move {
        // As hyper, which reads only after it was polled.
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok::<_, Infallible>(format!("data: {n}\n\n"))
    });
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .body(Body::from_stream(late.chain(stream::pending())))
        .unwrap();
    let (mut source, requests) = source!(Policy::default(), [response]);
    for n in 0..3 {
        assert_eq!(next!(source).unwrap().unwrap(), n.to_string());
        tokio::time::advance(Duration::from_secs(300)).await;
    }
    assert_eq!(requests.lock().unwrap().len(), 1);
}

// Over real transports.

type Gone = mpsc::Receiver<()>;

/// First response: one event, then cut; second: goes on after the cursor and stays open. The receiver
/// hears when the client has gone from the open one.
fn service() -> (Router, Script, Gone, Arc<Mutex<Vec<String>>>) {
    let (left, gone) = mpsc::channel::<()>(1);
    let open = stream::once(async { Ok::<_, Infallible>("id: 2\ndata: second\n\n") }).chain(
        stream::once(async move {
            let _left = left;
            std::future::pending::<Result<&str, Infallible>>().await
        }),
    );
    let cut = stream::iter([Ok("retry: 500\nid: 1\ndata: fi"), Ok("rst\n\nid: 9\nda")]).chain(
        stream::once(async { Err(std::io::Error::other("the worker died")) }).then(
            |error| async move {
                // What was sent before is on the wire.
                tokio::task::yield_now().await;
                error
            },
        ),
    );
    let respond = |body| {
        Response::builder()
            .header(header::CONTENT_TYPE, "text/event-stream")
            .body(body)
            .unwrap()
    };
    let script = Script::new(Mutex::new(VecDeque::from([
        respond(Body::from_stream(cut)),
        respond(Body::from_stream(open)),
    ])));
    let requests = Arc::new(Mutex::new(Vec::new()));
    async fn handler(
        State((script, requests)): State<(Script, Arc<Mutex<Vec<String>>>)>,
        request: HttpRequest<Body>,
    ) -> Response {
        let cursor = request.headers().get("last-event-id");
        let cursor = cursor.map(|id| format!("\nlast-event-id: {}", id.to_str().unwrap()));
        let line = format!(
            "{} {}{}",
            request.method(),
            request.uri(),
            cursor.unwrap_or_default()
        );
        requests.lock().unwrap().push(line);
        script.lock().unwrap().pop_front().unwrap()
    }
    let app = Router::new()
        .route("/events", any(handler))
        .with_state((script.clone(), requests.clone()));
    (app, script, gone, requests)
}

#[tokio::test]
async fn over_reqwest_a_cut_is_mended_and_dropping_cancels() {
    let (app, _script, mut gone, requests) = service();
    let server = Server::start(app).await;
    let connect = over_reqwest(reqwest::Client::new(), server.url("/events"));
    let mut source = EventSource::new(Policy::default(), Limits::default(), connect);
    let mut transcript = Transcript::new();
    for expected in ["first", "second"] {
        let event = within("an event", source.next()).await.unwrap().unwrap();
        assert_eq!(event.data, expected);
        let sent = requests.lock().unwrap().last().unwrap().clone();
        transcript.request(&sent);
        transcript.note(&format!(
            "read: {:?}, cursor {:?}",
            event.data, event.last_event_id
        ));
        if expected == "first" {
            transcript.note(
                "the server dies within the next event (id: 9); the client waits and reconnects",
            );
        }
    }
    drop(source);
    assert!(within("the server to notice", gone.recv()).await.is_none());
    insta::assert_snapshot!("sse_consume", transcript.finish());
}

#[tokio::test]
async fn over_hyper_it_is_the_same() {
    let (app, _script, mut gone, requests) = service();
    let server = Server::start(app).await;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let connect = over_hyper(client, server.url("/events").parse().unwrap());
    let mut source = EventSource::new(Policy::default(), Limits::default(), connect);
    for expected in ["first", "second"] {
        let event = within("an event", source.next()).await.unwrap().unwrap();
        assert_eq!(event.data, expected);
    }
    assert_eq!(requests.lock().unwrap()[1], "GET /events\nlast-event-id: 1");
    drop(source);
    assert!(within("the server to notice", gone.recv()).await.is_none());
}

// Where eventsource-stream 0.2.3, which many clients of LLMs use, goes wrong.

fn eventsource_stream(
    chunks: &'static [&'static [u8]],
) -> impl futures::Stream<Item = Result<String, String>> + Unpin {
    stream::iter(chunks.iter().map(|chunk| Ok::<_, Infallible>(*chunk)))
        .eventsource()
        .map(|event| {
            event
                .map(|event| event.data)
                .map_err(|error| error.to_string())
        })
        .boxed()
}

#[tokio::test]
async fn eventsource_stream_panics_on_a_byte_order_mark() {
    let read = async {
        eventsource_stream(&[b"\xEF\xBB\xBFdata: a\n\n"])
            .next()
            .await
    };
    let panic = std::panic::AssertUnwindSafe(read)
        .catch_unwind()
        .await
        .unwrap_err();
    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains("char boundary"), "{text}");
}

#[tokio::test]
async fn eventsource_stream_ends_on_invalid_utf8() {
    let mut events = eventsource_stream(&[b"data: \xFF\n\n", b"data: b\n\n"]);
    assert!(events.next().await.unwrap().is_err());
    let rest: Vec<_> = events.collect().await;
    assert!(!rest.contains(&Ok("\u{FFFD}".to_owned())), "{rest:?}");
}

#[tokio::test]
async fn eventsource_stream_holds_an_event_that_ends_in_cr() {
    let (sender, receiver) = mpsc::channel::<Result<&[u8], Infallible>>(1);
    let mut events = tokio_stream::wrappers::ReceiverStream::new(receiver)
        .eventsource()
        .boxed();
    sender.send(Ok(b"data: a\r\r")).await.unwrap();
    tokio::task::yield_now().await;
    assert!(
        events.next().now_or_never().is_none(),
        "the event is complete"
    );
    sender.send(Ok(b":\r")).await.unwrap();
    assert_eq!(
        within("the event", events.next())
            .await
            .unwrap()
            .unwrap()
            .data,
        "a"
    );
}
