//! Tests of `streams/body`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::{Router, body::Body, response::Response, routing::get};
use futures::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use snippets::streams::body::{Line, ReadError, download, ndjson, read_ndjson};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tower_http::compression::CompressionLayer;

use crate::support::raw::End;
use crate::support::{RawClient, Server, Transcript};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    name: String,
}

#[derive(Debug)]
struct Down;

fn row(name: &str) -> Row {
    Row {
        name: name.to_owned(),
    }
}

fn public(_: &Down) -> &'static str {
    "upstream_unavailable"
}

fn answer(rows: Vec<Result<Row, Down>>) -> Response {
    ndjson(stream::iter(rows), public)
}

async fn read_all(bytes: Vec<Vec<u8>>) -> (Vec<Row>, Option<ReadError>) {
    let chunks = stream::iter(
        bytes
            .into_iter()
            .map(|chunk| Ok::<_, io::Error>(bytes::Bytes::from(chunk))),
    );
    let mut rows = Vec::new();
    let mut lines = std::pin::pin!(read_ndjson(StreamReader::new(chunks), 1024));
    while let Some(next) = lines.next().await {
        match next {
            Ok(row) => rows.push(row),
            Err(error) => {
                assert!(lines.next().await.is_none(), "the error is the last item");
                return (rows, Some(error));
            }
        }
    }
    (rows, None)
}

#[tokio::test]
async fn the_last_line_tells_how_it_ended() {
    let app = Router::new()
        .route(
            "/rows",
            get(|| async { answer(vec![Ok(row("a\nb")), Ok(row("ü"))]) }),
        )
        .route(
            "/fails",
            get(|| async { answer(vec![Ok(row("a")), Err(Down), Ok(row("never"))]) }),
        );
    let server = Server::start(app).await;
    let mut transcript = Transcript::new();
    for path in ["/rows", "/fails"] {
        let mut client = RawClient::get(server.addr, path, &[]).await;
        assert_eq!(client.read_to_end().await, End::Complete);
        transcript
            .request(&format!("GET {path} HTTP/1.1"))
            .response(&client);
    }
    insta::assert_snapshot!(transcript.finish());
}

#[tokio::test]
async fn reqwest_reads_what_ndjson_wrote() {
    let app = Router::new()
        .route(
            "/rows",
            get(|| async { answer((0..500).map(|n| Ok(row(&format!("{n} 😀")))).collect()) }),
        )
        .route(
            "/fails",
            get(|| async { answer(vec![Ok(row("a")), Err(Down)]) }),
        );
    let server = Server::start(app).await;
    let read = async |path: &str| {
        let body = reqwest::get(server.url(path))
            .await
            .unwrap()
            .bytes_stream()
            .map_err(io::Error::other);
        read_ndjson::<Row>(StreamReader::new(body), 1024)
            .try_collect::<Vec<_>>()
            .await
    };
    assert_eq!(read("/rows").await.unwrap().len(), 500);
    assert!(
        matches!(read("/fails").await, Err(ReadError::Failed(code)) if code == "upstream_unavailable")
    );
}

#[tokio::test]
async fn a_cut_answer_is_never_a_complete_one() {
    let whole =
        b"{\"item\":{\"name\":\"a\"}}\n{\"item\":{\"name\":\"\xc3\xbc\"}}\n{\"end\":2}\n".to_vec();
    for cut in 0..whole.len() {
        let (_, error) = read_all(vec![whole[..cut].to_vec()]).await;
        // All but the last line break: the line is complete JSON, and says so itself.
        if cut == whole.len() - 1 {
            assert!(error.is_none());
        } else {
            assert!(
                matches!(error, Some(ReadError::Cut | ReadError::Line(_))),
                "cut at {cut}: {error:?}"
            );
        }
    }
    let lost_on_the_way = b"{\"item\":{\"name\":\"a\"}}\n{\"end\":2}\n".to_vec();
    assert!(matches!(
        read_all(vec![lost_on_the_way]).await,
        (_, Some(ReadError::Cut))
    ));
}

#[tokio::test]
async fn a_peer_cannot_make_the_reader_hold_more_than_the_limit() {
    let (rows, error) = read_all(vec![vec![b'x'; 2000]]).await;
    assert!(rows.is_empty());
    assert!(matches!(
        error,
        Some(ReadError::Line(
            tokio_util::codec::LinesCodecError::MaxLineLengthExceeded
        ))
    ));
    assert!(matches!(
        read_all(vec![b"{\"item\":{\"name\":\"\xff\"}}\n".to_vec()])
            .await
            .1,
        Some(ReadError::Line(_))
    ));
    assert!(matches!(
        read_all(vec![b"<html>\n".to_vec()]).await.1,
        Some(ReadError::Json(_))
    ));
}

proptest! {
    #[test]
    fn rows_survive_any_split(names in prop::collection::vec(".{0,12}", 0..8), cuts in prop::collection::vec(1_usize..9, 1..12)) {
        let mut wire = Vec::new();
        for name in &names {
            serde_json::to_writer(&mut wire, &Line::Item(row(name))).unwrap();
            wire.push(b'\n');
        }
        serde_json::to_writer(&mut wire, &Line::<Row>::End(names.len() as u64)).unwrap();
        wire.push(b'\n');
        let mut chunks = Vec::new();
        let mut sizes = cuts.iter().cycle();
        while !wire.is_empty() {
            let rest = wire.split_off((*sizes.next().unwrap()).min(wire.len()));
            chunks.push(std::mem::replace(&mut wire, rest));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (rows, error) = runtime.block_on(read_all(chunks));
        prop_assert!(error.is_none());
        prop_assert_eq!(rows, names.iter().map(|name| row(name)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_client_that_takes_gzip_gets_the_end_and_each_line_at_once() {
    let (tx, rx) = mpsc::channel::<Result<Row, Down>>(1);
    let rows = Arc::new(std::sync::Mutex::new(Some(ReceiverStream::new(rx))));
    let app = Router::new()
        .route(
            "/rows",
            get(move || async move { ndjson(rows.lock().unwrap().take().unwrap(), public) }),
        )
        .layer(CompressionLayer::new());
    let server = Server::start(app).await;
    let mut client = RawClient::get(server.addr, "/rows", &["accept-encoding: gzip"]).await;
    let head = client.read_head().await;
    assert!(
        head.contains("content-encoding: gzip"),
        "NDJSON is compressed by default: {head}"
    );
    let mut size = client.received.len();
    for name in ["one", "two"] {
        tx.send(Ok(row(name))).await.unwrap();
        // Each line is flushed: bytes arrive before the next one is sent. The gzip header alone has 10 bytes.
        crate::support::within("a compressed line", async {
            while client.received.len() < size + 15 {
                assert!(client.read_some().await);
            }
        })
        .await;
        size = client.received.len();
    }
    drop(tx);
    assert_eq!(client.read_to_end().await, End::Complete);
}

#[tokio::test]
async fn head_requests_take_nothing_from_the_source() {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    let app = Router::new().route(
        "/rows",
        get(move || async move {
            let rows = stream::iter(0..3).map(move |n| {
                count.fetch_add(1, SeqCst);
                Ok::<_, Down>(n)
            });
            ndjson(rows, public)
        }),
    );
    let server = Server::start(app).await;
    let mut client = RawClient::connect(server.addr).await;
    client
        .send_request("HEAD", "/rows", &["connection: close"])
        .await;
    client.read_to_end().await;
    assert_eq!((client.status(), taken.load(SeqCst)), (200, 0));
}

#[tokio::test]
async fn a_download_that_is_cut_is_noticed_by_its_length() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, vec![7; 300_000]).unwrap();
    let app = Router::new()
        .route(
            "/file",
            get(async move || {
                download(&path)
                    .await
                    .map_err(|_| axum::http::StatusCode::NOT_FOUND)
            }),
        )
        .route(
            "/cut",
            get(|| async {
                let pieces = stream::iter([Ok("half"), Err(io::Error::other("disk"))]);
                ([("content-length", "8")], Body::from_stream(pieces))
            }),
        );
    let server = Server::start(app).await;
    let whole = reqwest::get(server.url("/file")).await.unwrap();
    assert_eq!(whole.content_length(), Some(300_000));
    assert_eq!(whole.bytes().await.unwrap().len(), 300_000);
    // An `Err` may also take the head with it: either way nobody takes it for a complete file.
    let cut = match reqwest::get(server.url("/cut")).await {
        Ok(response) => response.bytes().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(cut.is_err());
}

#[tokio::test]
async fn replacing_the_default_predicate_compresses_event_streams_too() {
    use tower_http::compression::predicate::{
        DefaultPredicate, NotForContentType, Predicate, SizeAbove,
    };
    let events = || async {
        (
            [("content-type", "text/event-stream")],
            Body::from_stream(stream::iter([Ok::<_, io::Error>("data: x\n\n")])),
        )
    };
    let compressed = async |app: Router| {
        let server = Server::start(app).await;
        let mut client = RawClient::get(server.addr, "/", &["accept-encoding: gzip"]).await;
        client.read_head().await.contains("content-encoding")
    };
    let app = || Router::new().route("/", get(events));
    assert!(!compressed(app().layer(CompressionLayer::new())).await);
    assert!(
        compressed(app().layer(CompressionLayer::new().compress_when(SizeAbove::new(0)))).await
    );
    let added = DefaultPredicate::new().and(NotForContentType::new("application/x-ndjson"));
    assert!(!compressed(app().layer(CompressionLayer::new().compress_when(added))).await);
}
