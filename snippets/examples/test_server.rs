//! The server that the TypeScript tests talk to: the routers of the patterns themselves, and a
//! route that sends given bytes in given chunks. It binds a free loopback port, prints the address
//! and ends when its standard input closes, so that it never outlives the tests.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::Message;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Json, Router};
use futures::{FutureExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use snippets::connections::per_user::PerUser;
use snippets::llm::agent::{Agent, Tool};
use snippets::llm::agent_turn::Format;
use snippets::llm::model_stream::model_events;
use snippets::llm::openai_chat::OpenAiChat;
use snippets::llm::public_error::UserId;
use snippets::llm::relay::{self, Relay};
use snippets::llm::resume::{self as llm_resume, Generations, Limits as Kept};
use snippets::llm::scripted_model::{Fault, Reply, Script, ScriptedModel};
use snippets::llm::ui_message_stream::{UiMessage, ui_parts, ui_response};
use snippets::llm::upstream::{Decode, Dialect, Upstream};
use snippets::llm::use_chat::{self, UseChat};
use snippets::llm::use_chat_history::Chats;
use snippets::sse::event::Event;
use snippets::sse::log::{self, Log};
use snippets::sse::streams::{Config, Streams};
use snippets::sse::{jobs, resume, wire};
use snippets::websocket::admission::{Admission, FirstMessage};
use snippets::websocket::outbox::Outbox;
use snippets::websocket::rates::{Quotas, Rates};
use snippets::websocket::rooms::{Hub, Rules};
use snippets::websocket::rooms_endpoint;
use snippets::websocket::serve::{Handler, Limits, Sockets, Upgrade};
use snippets::websocket::users::User;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// `chunks`: hexadecimal, separated by commas; each is written apart from the others.
#[derive(Deserialize)]
struct Raw {
    chunks: String,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default = "event_stream", rename = "type")]
    content_type: String,
}

fn ok() -> u16 {
    200
}

fn event_stream() -> String {
    "text/event-stream".to_owned()
}

async fn raw(Query(raw): Query<Raw>) -> Response {
    let mut chunks = Vec::new();
    for chunk in raw.chunks.split(',').filter(|chunk| !chunk.is_empty()) {
        match hex(chunk) {
            Some(bytes) => chunks.push(bytes),
            None => return (StatusCode::BAD_REQUEST, "chunks: hexadecimal").into_response(),
        }
    }
    let Ok(status) = StatusCode::from_u16(raw.status) else {
        return (StatusCode::BAD_REQUEST, "status: 100 to 999").into_response();
    };
    let body = async_stream::stream! {
        for chunk in chunks {
            yield Ok::<_, Infallible>(chunk);
            // Pending once, so that hyper writes this chunk before it sees the next.
            tokio::task::yield_now().await;
        }
    };
    let headers = [(header::CONTENT_TYPE, raw.content_type)];
    (status, headers, Body::from_stream(body)).into_response()
}

fn hex(text: &str) -> Option<Bytes> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect::<Option<Vec<u8>>>().map(Bytes::from)
}

async fn page() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    let body = "<!doctype html><link rel=\"icon\" href=\"data:,\"><title>test</title><body></body>";
    (headers, body)
}

/// What the Rust parser makes of the body.
async fn parse(body: Bytes) -> Response {
    let mut parser = wire::Parser::default();
    let mut found = Vec::new();
    let mut events = parser.push(&body);
    loop {
        match events.next() {
            Ok(Some(event)) => found.push(serde_json::json!({
                "type": event.event_type,
                "data": event.data,
                "lastEventId": event.last_event_id,
            })),
            Ok(None) => return Json(found).into_response(),
            Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        }
    }
}

/// The patterns with a state of their own, so that tests do not meet each other's events.
type Scenes = Arc<Mutex<HashMap<String, Router>>>;

/// Any path under `/scene/{name}/`: the scene is made when it is first asked for. The path is taken
/// apart here, since the parameters of an outer route would be seen by the inner ones.
async fn scene(State(scenes): State<Scenes>, mut request: Request) -> Response {
    let uri = request.uri().to_string();
    let inner = uri
        .split_once("/scene/")
        .and_then(|(_, rest)| rest.split_once('/'))
        .and_then(|(name, path)| Some((name.to_owned(), format!("/{path}").parse::<Uri>().ok()?)));
    let Some((name, inner)) = inner else {
        return StatusCode::NOT_FOUND.into_response();
    };
    *request.uri_mut() = inner;
    let router = {
        let mut scenes = lock(&scenes);
        scenes.entry(name).or_insert_with(new_scene).clone()
    };
    router.oneshot(request).await.into_response()
}

fn new_scene() -> Router {
    sse_scene().merge(rooms_scene()).merge(admission_scene())
}

/// Answers each message with itself.
struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        outbox.send(message);
    }
}

/// `websocket/admission` at `/admission`: each token `t1`, `t2`, … is valid once; `POST /expire` closes the sockets.
fn admission_scene() -> Router {
    let shutdown = Arc::new(Mutex::new(CancellationToken::new()));
    let used = Arc::new(Mutex::new(HashSet::new()));
    let connect = {
        let shutdown = shutdown.clone();
        async move |upgrade: Upgrade| {
            let (used, stop) = (used.clone(), lock(&shutdown).clone());
            let limits = Limits {
                drain_spread: Duration::ZERO,
                ..Limits::default()
            };
            Sockets::new(limits, stop).accept(upgrade, move |outbox| {
                let verify = move |token: &str| {
                    let valid = token.starts_with('t') && lock(&used).insert(token.to_owned());
                    std::future::ready(Ok(valid.then(ada)))
                };
                FirstMessage::new(outbox, Admission::default(), verify, |_, _: &Outbox| Echo)
            })
        }
    };
    let expire = async move || {
        std::mem::replace(&mut *lock(&shutdown), CancellationToken::new()).cancel();
        StatusCode::NO_CONTENT
    };
    Router::new()
        .route("/admission", any(connect))
        .route("/expire", post(expire))
}

fn ada() -> User {
    User {
        name: "ada".into(),
        admin: false,
        expires: tokio::time::Instant::now() + Duration::from_secs(3600),
    }
}

/// `websocket/rooms` at `/rooms`; `POST /restart` closes its connections as a deploy does.
fn rooms_scene() -> Router {
    let shutdown = Arc::new(Mutex::new(CancellationToken::new()));
    let hub = Hub::new(Rules {
        history: 100,
        grace: Duration::ZERO,
        presence_every: Duration::from_millis(20),
        ..Rules::default()
    });
    let connect = {
        let shutdown = shutdown.clone();
        move |request: Request| {
            let token = lock(&shutdown).clone();
            let limits = Limits {
                drain_spread: Duration::ZERO,
                ..Limits::default()
            };
            let (user, sockets) = (ada(), Sockets::new(limits, token));
            let rates = Rates::new(Quotas::default());
            let router = rooms_endpoint::router(sockets, hub.clone(), rates);
            router.layer(Extension(user)).oneshot(request)
        }
    };
    let restart = move || async move {
        std::mem::replace(&mut *lock(&shutdown), CancellationToken::new()).cancel();
        StatusCode::NO_CONTENT
    };
    Router::new()
        .route("/rooms", any(connect))
        .route("/restart", post(restart))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const DECODE: Decode = |body| model_events(body, OpenAiChat::default()).boxed();

/// `model` on a port of its own, as a relay reaches a provider.
async fn serve_model(model: &ScriptedModel, silence: Duration) -> std::io::Result<Upstream> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let origin = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, model.router()).into_future());
    let dialect = Dialect::OpenAiChat;
    Upstream::new(dialect, &origin, "key", "scripted", silence, DECODE)
        .map_err(std::io::Error::other)
}

/// `llm/relay` at `/llm/{script}/chat` and `llm/ui_message_stream` at `/ui/{script}/chat`, in front of the
/// scripted model, which is at `/model` as well; `GET /exchanges` says how each exchange with it ended.
async fn llm(page: HeaderValue) -> std::io::Result<Router> {
    let model = ScriptedModel::new(Script::reply(Reply::text("Hello from the scripted model.")));
    let silence = Duration::from_secs(5);
    let upstream = serve_model(&model, silence).await?;
    let mut router = Router::new();
    for script in Script::NAMES {
        let upstream = upstream.with_model(&format!("scripted/{script}"));
        let relay = Relay {
            model: upstream.model(),
            streams: Streams::start(Config::default(), CancellationToken::new()),
            places: PerUser::new(20).permits(),
            config: relay::Config {
                silence,
                ..relay::Config::default()
            },
            shutdown: CancellationToken::new(),
        };
        // The AI SDK sends its own message format: the scripted model answers anything.
        let streams = relay.streams.clone();
        let ui = move || async move {
            match (streams.admit(), upstream.open_messages(Vec::new()).await) {
                (Ok(slot), Ok(events)) => {
                    ui_response(slot, UiMessage::new(ui_parts("answer", events)))
                }
                (Err(refused), _) => refused.into_response(),
                (_, Err(_)) => StatusCode::BAD_GATEWAY.into_response(),
            }
        };
        router = router
            .nest(&format!("/llm/{script}"), relay::app(Arc::new(relay)))
            .route(&format!("/ui/{script}/chat"), post(ui));
    }
    router = router.merge(use_chat_routes(page).await?);
    // `llm/resume` at `/slow/generations`: an answer that takes a second; at `/held/generations`: one that does not end by itself.
    let words = Script::reply(Reply::text("one two three four five six"));
    let slow = Script {
        pace: Duration::from_millis(150),
        ..words.clone()
    };
    router = router.nest("/slow", generations(slow, silence).await?);
    let held = words.with_fault(Fault::Stall { after: 2 });
    router = router.nest("/held", generations(held, Duration::from_secs(600)).await?);
    let provider = model.router();
    Ok(router
        .nest("/model", provider)
        .route("/exchanges", get(async move || exchanges(&model)))
        .layer(Extension(UserId("ada".to_owned()))))
}

/// `llm/resume` with answers of `script`.
async fn generations(script: Script, silence: Duration) -> std::io::Result<Router> {
    let upstream = serve_model(&ScriptedModel::new(script), silence).await?;
    let quick = Config {
        retry: Duration::from_millis(50),
        ..Config::default()
    };
    let relay = Relay {
        model: upstream.model(),
        streams: Streams::start(quick, CancellationToken::new()),
        places: PerUser::new(20).permits(),
        config: relay::Config::default(),
        shutdown: CancellationToken::new(),
    };
    let kept = Kept {
        per_user: 50,
        ..Kept::default()
    };
    let (streams, places) = (relay.streams.clone(), relay.places.clone());
    let generations = Generations::new(streams, places, kept, relay.shutdown.clone());
    let relay = Arc::new(relay);
    Ok(llm_resume::app(generations, move |user, question| {
        relay.events(user, question)
    }))
}

fn exchanges(model: &ScriptedModel) -> Json<serde_json::Value> {
    let ends = model.exchanges().into_iter().map(|exchange| {
        json!({
            "end": format!("{:?}", exchange.end),
            "tokens": exchange.tokens,
            "request": exchange.request,
        })
    });
    Json(ends.collect())
}

/// `llm/use_chat` at `/use-chat/{script}/chat` for the AI SDK 7 and `/use-chat-6/…` for those before it, for pages of `page`;
/// `POST /use-chat/release` lets a stalled answer go on.
async fn use_chat_routes(page: HeaderValue) -> std::io::Result<Router> {
    let model = ScriptedModel::new(Script::reply(Reply::text("Hello from the scripted model.")));
    let silence = Duration::from_secs(60);
    let upstream = serve_model(&model, silence).await?;
    let released = model.clone();
    let mut router = Router::new()
        .route("/use-chat/exchanges", get(async move || exchanges(&model)))
        .route("/use-chat/release", post(async move || released.release()));
    for (folder, stopped) in [("use-chat", "interrupted"), ("use-chat-6", "other")] {
        for script in ["agent", "plain", "cut", "length", "stall", "error"] {
            let upstream = upstream.with_model(&format!("scripted/{script}"));
            let chat = chat_service(upstream, stopped, page.clone());
            router = router.nest(&format!("/{folder}/{script}"), chat);
        }
    }
    Ok(router)
}

/// A chat with a tool that runs at once and one that needs an approval.
fn chat_service(upstream: Upstream, stopped: &'static str, page: HeaderValue) -> Router {
    let relay = Arc::new(Relay {
        model: upstream.model(),
        streams: Streams::start(Config::default(), CancellationToken::new()),
        places: PerUser::new(20).permits(),
        config: relay::Config::default(),
        shutdown: CancellationToken::new(),
    });
    let weather = Tool {
        name: "get_weather",
        description: "The weather of a city",
        schema: json!({ "type": "object", "properties": { "city": { "type": "string" } } }),
        approval: |_| false,
        longest: Duration::from_secs(20),
        run: Arc::new(|_, input| {
            async move { Ok(json!({ "city": input["city"], "degrees": 21 })) }.boxed()
        }),
    };
    let time = Tool {
        name: "get_time",
        description: "The time",
        schema: json!({ "type": "object" }),
        approval: |_| true,
        run: Arc::new(|_, _| async { Ok(json!("12:00")) }.boxed()),
        ..weather.clone()
    };
    let agent = Agent {
        ask: relay.calls(),
        format: Format {
            dialect: Dialect::OpenAiChat,
            reasoning: None,
        },
        tools: vec![weather, time],
        most_steps: 8,
        parallel: 4,
        most_result_bytes: 64 * 1024,
        longest: Duration::from_secs(15 * 60),
    };
    let kept = Kept {
        per_user: 100,
        ..Kept::default()
    };
    let (streams, places) = (relay.streams.clone(), relay.places.clone());
    let all = UseChat {
        agent: Arc::new(agent),
        generations: Generations::new(streams, places, kept, relay.shutdown.clone()),
        chats: Chats::new(1000, 1000),
        stopped,
    };
    use_chat::app(Arc::new(all)).layer(use_chat::cors(vec![page]))
}

/// `sse/resume` at `/events` and `sse/jobs` at `/jobs/1/events`, with their producers' ends.
fn sse_scene() -> Router {
    let config = Config {
        heartbeat: Duration::from_millis(100),
        retry: Duration::from_millis(30),
        drain_spread: Duration::ZERO,
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    let streams = Streams::start(config, shutdown.clone());
    let log = Log::new(log::Config::complete(8, 1 << 20));
    let known = jobs::Jobs::default();
    let worker = Arc::new(known.insert(1));

    let publish = {
        let log = log.clone();
        move |Path(name): Path<String>, body: String| async move {
            let event = Event::new(&name, &body);
            let event = event.map(|e| if name == "done" { e.last() } else { e });
            match event.map_err(Into::into).and_then(|e| log.publish(&e)) {
                Ok(_) => StatusCode::NO_CONTENT.into_response(),
                Err(error) => (StatusCode::CONFLICT, error.to_string()).into_response(),
            }
        }
    };
    let progress = move |Path(percent): Path<u8>| async move {
        match &*worker {
            Ok(worker) if worker.set(jobs::Progress { percent }).is_ok() => StatusCode::NO_CONTENT,
            _ => StatusCode::CONFLICT,
        }
    };
    let end_streams = move || async move {
        shutdown.cancel();
        StatusCode::NO_CONTENT
    };
    Router::new()
        .merge(resume::app(log, streams.clone()))
        .merge(jobs::app(known, streams))
        .route("/publish/{name}", post(publish))
        .route("/progress/{percent}", post(progress))
        .route("/shutdown", post(end_streams))
}

fn app(llm: Router) -> Router {
    Router::new()
        .route("/", any(page))
        .route("/raw", any(raw))
        .route("/parse", post(parse))
        .fallback(scene)
        .with_state(Scenes::default())
        .merge(llm)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let addr = listener.local_addr()?;
    println!("http://{addr}");
    // The same server under another name: another origin.
    let page = HeaderValue::try_from(format!("http://localhost:{}", addr.port()));
    let llm = llm(page.map_err(std::io::Error::other)?).await?;
    let served = axum::serve(listener, app(llm)).into_future();
    tokio::select! {
        served = served => served,
        () = stdin_closed() => Ok(()),
    }
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut byte = [0_u8; 1];
    while matches!(stdin.read(&mut byte).await, Ok(1)) {}
}
