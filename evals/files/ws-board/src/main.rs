//! A shared board: what one client writes, all see.
//!
//! GET /ws: a client sends {"text"}; everybody, the sender too, gets {"seq", "text"}. What is not valid is answered to
//!          its sender with {"error": "<code>"}.
//! GET /stats -> {"clients"}: how many are connected

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

#[derive(Deserialize)]
struct Line {
    text: String,
}

#[derive(Clone, Default)]
struct Board {
    clients: Arc<Mutex<Vec<mpsc::UnboundedSender<String>>>>,
    count: Arc<AtomicUsize>,
    seq: Arc<AtomicU64>,
}

async fn upgrade(State(board): State<Board>, ws: WebSocketUpgrade) -> Response {
    ws.on_upgrade(move |socket| connection(socket, board))
}

async fn connection(socket: WebSocket, board: Board) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut lines) = mpsc::unbounded_channel();
    board.clients.lock().unwrap().push(sender.clone());
    board.count.fetch_add(1, Ordering::Relaxed);
    let writer = tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            if sink.send(Message::text(line)).await.is_err() {
                break;
            }
        }
    });
    while let Some(Ok(message)) = stream.next().await {
        if let Message::Text(text) = message {
            match serde_json::from_str::<Line>(&text) {
                Ok(line) => {
                    let seq = board.seq.fetch_add(1, Ordering::Relaxed) + 1;
                    let line = json!({ "seq": seq, "text": line.text }).to_string();
                    let mut clients = board.clients.lock().unwrap();
                    clients.retain(|client| client.send(line.clone()).is_ok());
                }
                Err(_) => {
                    let _ = sender.send(json!({ "error": "invalid_message" }).to_string());
                }
            }
        }
    }
    board.count.fetch_sub(1, Ordering::Relaxed);
    writer.abort();
}

async fn stats(State(board): State<Board>) -> Json<serde_json::Value> {
    Json(json!({ "clients": board.count.load(Ordering::Relaxed) }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let app = Router::new()
        .route("/ws", get(upgrade))
        .route("/stats", get(stats))
        .with_state(Board::default());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            let mut term =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
            term.recv().await;
        })
        .await
}
