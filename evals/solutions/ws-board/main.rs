//! The board on the patterns `websocket/serve` and `websocket/outbox`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::Message;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use snippets::websocket::limits::Limits;
use snippets::websocket::outbox::Outbox;
use snippets::websocket::serve::{Handler, Sockets, Upgrade};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Deserialize)]
struct Line {
    text: String,
}

#[derive(Default)]
struct Members {
    seq: u64,
    next: u64,
    outboxes: HashMap<u64, Outbox>,
}

#[derive(Clone)]
struct Board {
    members: Arc<Mutex<Members>>,
    sockets: Sockets,
    origin: Arc<str>,
}

impl Board {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Member {
    board: Board,
    key: u64,
}

impl Handler for Member {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let Message::Text(text) = message else {
            return outbox.close(1003, "text only");
        };
        let Ok(line) = serde_json::from_str::<Line>(&text) else {
            outbox.send(Message::text(
                json!({ "error": "invalid_message" }).to_string(),
            ));
            return;
        };
        // Numbered and queued under one lock, so that all see one order. A full outbox closes itself.
        let mut members = self.board.members();
        members.seq += 1;
        let line = Message::text(json!({ "seq": members.seq, "text": line.text }).to_string());
        for outbox in members.outboxes.values() {
            outbox.send(line.clone());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.board.members().outboxes.remove(&self.key);
    }
}

async fn upgrade(State(board): State<Board>, headers: HeaderMap, upgrade: Upgrade) -> Response {
    // A browser always sends Origin; clients that are none have no cookie to abuse.
    let origin = headers.get(header::ORIGIN);
    if origin.is_some_and(|origin| origin.as_bytes() != board.origin.as_bytes()) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let sockets = board.sockets.clone();
    sockets.accept(upgrade, move |outbox| {
        let mut members = board.members();
        members.next += 1;
        let key = members.next;
        members.outboxes.insert(key, outbox.clone());
        drop(members);
        Member { board, key }
    })
}

async fn stats(State(board): State<Board>) -> Json<serde_json::Value> {
    Json(json!({ "clients": board.members().outboxes.len() }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let env = |name: &str, or: &str| std::env::var(name).unwrap_or_else(|_| or.into());
    let ping = Duration::from_millis(env("PING_MS", "20000").parse().unwrap_or(20_000));
    let limits = Limits {
        message: 16 * 1024,
        queue: 256,
        queue_bytes: 1024 * 1024,
        ping_every: ping,
        ..Limits::default()
    };
    let stop = CancellationToken::new();
    let sockets = Sockets::new(limits, stop.clone());
    let board = Board {
        members: Arc::default(),
        sockets: sockets.clone(),
        origin: env("ALLOWED_ORIGIN", "http://localhost:3000").into(),
    };
    let app = Router::new()
        .route("/ws", any(upgrade))
        .route("/stats", get(stats))
        .with_state(board);
    let listener =
        tokio::net::TcpListener::bind(format!("127.0.0.1:{}", env("PORT", "3000"))).await?;
    let mut term = signal(SignalKind::terminate())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        term.recv().await;
        stopping.cancel();
    });
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    sockets.drained(Duration::from_secs(4)).await;
    Ok(())
}
