//! The project's own patterns pass: what they cannot show is unknown, and nothing is wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use futures::StreamExt as _;
use snippets::connections::per_user::PerUser;
use snippets::llm::anthropic::Anthropic;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::public_error::UserId;
use snippets::llm::relay::{self, Relay};
use snippets::llm::upstream::{Decode, Dialect, Upstream};
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::resume;
use snippets::sse::streams::{self, Streams};
use snippets::websocket::messages;
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::Sockets;
use stream_probe::{Kind, Publish, Verdict};
use tokio_util::sync::CancellationToken;

use crate::support::{assert_failed, assert_passed, options, probe, show, together};

async fn start(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

fn streams(heartbeat: Duration) -> Streams {
    let config = streams::Config {
        heartbeat,
        ..streams::Config::default()
    };
    Streams::start(config, CancellationToken::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_pass() {
    tokio::join!(
        sse_resume_passes(),
        websocket_serve_passes(),
        llm_relay_passes_in_every_dialect(),
    );
}

async fn sse_resume_passes() {
    let log = Log::new(log::Config::complete(1000, 1 << 20));
    let streams = streams(Duration::from_secs(2));
    let addr = start(resume::app(Arc::clone(&log), streams)).await;
    let mut options = options(addr, "/events");
    options.resumable = true;
    options.skip = crate::support::without_stalls();
    options.publish = Publish::Call(Arc::new(move |n| {
        log.publish(&Event::new("tick", &n).unwrap()).unwrap();
    }));
    let report = probe(Kind::Sse, &options).await;
    assert_failed(&report, &[]);
    // axum accepts HTTP/2 with prior knowledge.
    assert_passed(&report, "sse-http2-works");
    assert_passed(&report, "sse-http2-stream-limit");
    assert!(
        report.ids(Verdict::CouldNotTell).len() <= 5,
        "\n{}",
        show(&report)
    );
}

async fn websocket_serve_passes() {
    let limits = Limits {
        ping_every: Duration::from_secs(1),
        silent_pings: 4,
        ..Limits::default()
    };
    let sockets = Sockets::new(limits, CancellationToken::new());
    let addr = start(messages::router(sockets)).await;
    let mut options = options(addr, "/ws");
    options.subprotocols = vec![messages::SUBPROTOCOL.to_owned()];
    options.message = Some(r#"{"type":"echo","id":1,"text":"hello"}"#.into());
    options.idle = Some(Duration::from_secs(5));
    options.heartbeat = Some(Duration::from_secs(3));
    // Limits of rates are a pattern of their own, `websocket/protect`.
    options.skip = vec!["ws-flood-limited".to_owned()];
    let report = probe(Kind::Ws, &options).await;
    assert_failed(&report, &[]);
}

async fn llm_relay_passes_in_every_dialect() {
    let dialects: [(Dialect, Decode); 2] = [
        (Dialect::OpenAiChat, |body| {
            model_events(body, OpenAiChat::default()).boxed()
        }),
        (Dialect::Anthropic, |body| {
            model_events(body, Anthropic::default()).boxed()
        }),
    ];
    together(dialects.map(|(dialect, decode)| async move {
        // A free port, which the probe binds a moment later.
        let upstream = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let base = format!("http://{upstream}");
        let relay = Relay {
            model: Upstream::new(dialect, &base, "key", "m", Duration::from_secs(60), decode)
                .unwrap()
                .model(),
            streams: streams(Duration::from_secs(2)),
            places: PerUser::new(2).permits(),
            config: relay::Config::default(),
            shutdown: CancellationToken::new(),
        };
        let app = relay::app(Arc::new(relay)).layer(Extension(UserId("ada".to_owned())));
        let mut options = options(start(app).await, "/chat");
        options.method = "POST".to_owned();
        options.body = Some(br#"{"messages":[{"role":"user","content":"hello"}]}"#.to_vec());
        options.upstream = Some(upstream);
        options.heartbeat = Some(Duration::from_secs(5));
        let report = probe(Kind::Llm, &options).await;
        assert_failed(&report, &[]);
        assert_eq!(
            report.ids(Verdict::CouldNotTell),
            Vec::<&str>::new(),
            "\n{}",
            show(&report)
        );
    }))
    .await;
}
