//! Wrong: an `mpsc::unbounded_channel` between the producer and the response body
//! Harm: all 64 MiB that the producer makes are held in memory for one reader that does not read; with a bound in bytes, less than 1 MiB
//! Instead: streams/backpressure
//! Probe: cannot see: a body of plain bytes; as an event stream it is sse_unbounded_queue

use std::convert::Infallible;

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use futures::StreamExt;
use snippets::streams::backpressure::byte_channel;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::support::{Gauge, Server, eventually, settled, stalled_get};

const CHUNK: usize = 64 * 1024;
const TOTAL: usize = 64 << 20;

fn wrong(gauge: Gauge) -> Body {
    let (tx, rx) = mpsc::unbounded_channel::<Bytes>();
    tokio::spawn(async move {
        for _ in 0..TOTAL / CHUNK {
            if tx.send(gauge.chunk(CHUNK)).is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    Body::from_stream(UnboundedReceiverStream::new(rx).map(Ok::<_, Infallible>))
}

fn right(gauge: Gauge) -> Body {
    let (tx, chunks) = byte_channel(64, 256 * 1024);
    tokio::spawn(async move {
        for _ in 0..TOTAL / CHUNK {
            if tx.send(gauge.chunk(CHUNK)).await.is_err() {
                return;
            }
        }
    });
    Body::from_stream(chunks.map(Ok::<_, Infallible>))
}

#[tokio::test]
async fn a_stalled_reader_fills_the_memory() {
    let gauge = Gauge::default();
    let made = gauge.clone();
    let server = Server::start(Router::new().route("/", get(async move || wrong(gauge)))).await;
    let _reader = stalled_get(server.addr, "/").await;
    eventually("the producer to end, unhindered", || made.made() == TOTAL).await;
    // The kernel has taken what fits into its buffers; the rest is ours.
    assert!(
        made.alive() > TOTAL * 3 / 4,
        "{} bytes in memory",
        made.alive()
    );
}

#[tokio::test]
async fn with_a_bound_the_producer_waits() {
    let gauge = Gauge::default();
    let made = gauge.clone();
    let server = Server::start(Router::new().route("/", get(async move || right(gauge)))).await;
    let _reader = stalled_get(server.addr, "/").await;
    let alive = settled("the producer to stop", 1, || made.alive()).await;
    assert!(alive < 1 << 20, "{alive} bytes in memory");
    assert!(made.made() < TOTAL / 2);
}
