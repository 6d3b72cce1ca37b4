//! Why "everything arrives at once": the same ticks straight, through tower-http's compression, and
//! through a hop that compresses without flushing.

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use http_body::{Body as HttpBody, Frame};
use serde::Deserialize;
use snippets::streams::pace::ticker;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;

const TICKS: usize = 10;
const PERIOD: Duration = Duration::from_millis(150);

/// `GET /straight`, `/tower` and `/hop`, each also with `?no_transform=true`.
pub fn router(shutdown: CancellationToken) -> Router {
    let ticks = get(async move |Query(asked): Query<Asked>| ticks(&asked, shutdown.clone()));
    // The default predicate leaves event streams alone; this one compresses everything.
    let everything = CompressionLayer::new().compress_when(SizeAbove::new(0));
    Router::new()
        .route("/straight", ticks.clone())
        .route("/tower", ticks.clone().layer(everything))
        .route("/hop", ticks.layer(from_fn(compress_without_flushing)))
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    no_transform: bool,
}

fn ticks(asked: &Asked, shutdown: CancellationToken) -> Response {
    let ticks = IntervalStream::new(ticker(PERIOD))
        .take(TICKS)
        .map(|_| Event::default().event("tick").data("{}"))
        .chain(stream::iter([Event::default().event("done").data("{}")]))
        .take_until(shutdown.cancelled_owned())
        .map(Ok::<_, Infallible>);
    let cache_control = if asked.no_transform {
        "no-cache, no-transform"
    } else {
        "no-cache"
    };
    ([(header::CACHE_CONTROL, cache_control)], Sse::new(ticks)).into_response()
}

/// Simulates a proxy that compresses on request and never flushes: output leaves when the compressor emits it.
async fn compress_without_flushing(request: Request, next: Next) -> Response {
    let has = |headers: &HeaderMap, name: header::HeaderName, word: &str| {
        headers
            .get_all(name)
            .iter()
            .any(|value| value.to_str().is_ok_and(|value| value.contains(word)))
    };
    let wanted = has(request.headers(), header::ACCEPT_ENCODING, "gzip");
    let mut response = next.run(request).await;
    if !wanted || has(response.headers(), header::CACHE_CONTROL, "no-transform") {
        return response;
    }
    let gzip = HeaderValue::from_static("gzip");
    response
        .headers_mut()
        .insert(header::CONTENT_ENCODING, gzip);
    response.map(|inner| {
        Body::new(Held {
            inner,
            encoder: Some(GzEncoder::new(Vec::new(), Compression::default())),
        })
    })
}

struct Held {
    inner: Body,
    /// `None` after the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            let Some(encoder) = &mut this.encoder else {
                return Poll::Ready(None);
            };
            match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if let Err(error) = encoder.write_all(&data) {
                        return Poll::Ready(Some(Err(axum::Error::new(error))));
                    }
                    let out = std::mem::take(encoder.get_mut());
                    // The ten bytes of gzip's own head come at once and show nothing.
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let rest = this.encoder.take().map(GzEncoder::finish);
                    return Poll::Ready(rest.map(|rest| match rest {
                        Ok(rest) => Ok(Frame::data(rest.into())),
                        Err(error) => Err(axum::Error::new(error)),
                    }));
                }
            }
        }
    }
}
