//! Exports the rows of a report as NDJSON.
//!
//! GET /export?rows=N[&pause_at=K][&fail_at=K]: one line {"row": n} for each row, then {"done": true, "rows": N}
//! GET /stats -> {"read", "open"}: rows read from the database so far, cursors that are open in it

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use snippets::connections::send_deadline::WithSendDeadline;

static READ: AtomicU64 = AtomicU64::new(0);
static OPEN: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Deserialize)]
struct Export {
    rows: u64,
    pause_at: Option<u64>,
    fail_at: Option<u64>,
}

/// Stands for the database: leave `Cursor` as it is. A cursor that is not dropped holds a connection.
struct Cursor {
    export: Export,
    row: u64,
}

impl Cursor {
    fn open(export: Export) -> Self {
        OPEN.fetch_add(1, Ordering::SeqCst);
        Self { export, row: 0 }
    }

    async fn next(&mut self) -> Option<Result<u64, String>> {
        if self.row == self.export.rows {
            return None;
        }
        self.row += 1;
        if self.export.pause_at == Some(self.row) {
            tokio::time::sleep(Duration::from_secs(60)).await; // a lock in the database
        }
        tokio::task::yield_now().await;
        if self.export.fail_at == Some(self.row) {
            return Some(Err("connection to db-7.internal:5432 was lost".into()));
        }
        READ.fetch_add(1, Ordering::SeqCst);
        Some(Ok(self.row))
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The cursor lives in the body: hyper asks for a line when the connection has room, and drops the body, with the
/// cursor, when the client leaves, also while the database is silent.
async fn export(Query(export): Query<Export>) -> Response {
    let start = Some((Cursor::open(export), 0));
    let lines = stream::unfold(start, |state| async {
        let (mut cursor, count) = state?;
        let (line, next) = match cursor.next().await {
            Some(Ok(row)) => {
                let line = json!({ "row": row, "note": "x".repeat(200) });
                (line, Some((cursor, count + 1)))
            }
            Some(Err(error)) => {
                eprintln!("export: {error}");
                (json!({ "error": "export_failed" }), None)
            }
            None => (json!({ "done": true, "rows": count }), None),
        };
        Some((Ok::<_, Infallible>(format!("{line}\n")), next))
    });
    let body = Body::from_stream(lines.fuse());
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// HEAD opens no cursor.
async fn head() -> Response {
    [(header::CONTENT_TYPE, "application/x-ndjson")].into_response()
}

async fn stats() -> Json<serde_json::Value> {
    Json(json!({ "read": READ.load(Ordering::SeqCst), "open": OPEN.load(Ordering::SeqCst) }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".into());
    let app = Router::new()
        .route("/export", get(export).head(head))
        .route("/stats", get(stats));
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    let stall = std::env::var("STALL_MS")
        .ok()
        .and_then(|ms| ms.parse().ok())
        .unwrap_or(20_000);
    let limit = Duration::from_millis(stall);
    axum::serve(WithSendDeadline { listener, limit }, app).await
}
