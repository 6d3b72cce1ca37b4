//! The server that the TypeScript tests talk to: the routers of the patterns themselves, and a
//! route that sends given bytes in given chunks. It binds a free loopback port, prints the address
//! and ends when its standard input closes, so that it never outlives the tests.

use std::convert::Infallible;

use std::future::IntoFuture;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

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

fn app() -> Router {
    Router::new()
        .route("/", any(page))
        .route("/raw", any(raw))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}", listener.local_addr()?);
    let served = axum::serve(listener, app()).into_future();
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
