//! A real cut, from the server's side: `POST cut` breaks off the open streams of one visitor, as a
//! crashed server or a dropped route would. Nothing is ended in band; the client must notice and
//! reconnect on its own.
//!
//! A response body is cut by an `Err` from its stream: hyper then closes the connection without the
//! last chunk. An upgraded connection (WebSocket) has no body; its socket is closed under it, which
//! needs the listener of [`super::connection`].

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use axum::extract::{ConnectInfo, OriginalUri, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Json, Router, body::Body};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::connection::Connection;

const COOKIE: &str = "live-visitor";

/// The open streams of each visitor.
#[derive(Clone, Default)]
struct Cuts(Arc<Mutex<HashMap<Visitor, Vec<Open>>>>);

/// A random id in a cookie, so that a panel's code needs to know nothing of it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Visitor(String);

struct Open {
    path: String,
    cut: CancellationToken,
    /// Gone when the stream has ended.
    alive: Weak<()>,
}

impl Cuts {
    fn add(&self, visitor: Visitor, open: Open) {
        let mut visitors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        visitors.retain(|_, streams| {
            streams.retain(|stream| stream.alive.strong_count() > 0);
            !streams.is_empty()
        });
        visitors.entry(visitor).or_default().push(open);
    }

    /// Cuts the streams of `visitor` whose path begins with `path`, and says how many there were.
    fn cut(&self, visitor: &Visitor, path: &str) -> usize {
        let mut visitors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for stream in visitors.get_mut(visitor).into_iter().flatten() {
            if stream.path.starts_with(path)
                && stream.alive.strong_count() > 0
                && !stream.cut.is_cancelled()
            {
                stream.cut.cancel();
                count += 1;
            }
        }
        count
    }
}

/// `router`, with `POST /cut` in addition to its routes. `POST /cut?path=/live/sse/resume` cuts only the
/// streams below that path (as the browser names it). Answers `{"cut": number of streams}`.
pub fn cuttable(router: Router) -> Router {
    let cuts = Cuts::default();
    router
        .route("/cut", post(cut))
        .layer(from_fn_with_state(cuts.clone(), watch))
        .layer(Extension(cuts))
}

#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    path: String,
}

async fn cut(
    Extension(cuts): Extension<Cuts>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Json<Value> {
    let count = visitor(&headers).map_or(0, |visitor| cuts.cut(&visitor, &which.path));
    Json(json!({ "cut": count }))
}

/// Remembers each stream that opens, and gives a new visitor the cookie.
async fn watch(
    State(cuts): State<Cuts>,
    OriginalUri(uri): OriginalUri,
    request: Request,
    next: Next,
) -> Response {
    let connection = request
        .extensions()
        .get::<ConnectInfo<Connection>>()
        .cloned();
    let known = visitor(request.headers());
    let is_new = known.is_none();
    let visitor = known.unwrap_or_else(|| Visitor(crate::random_id()));
    let mut response = next.run(request).await;
    if is_new
        && let Ok(cookie) = HeaderValue::try_from(format!(
            "{COOKIE}={}; Path=/live; HttpOnly; SameSite=Strict",
            visitor.0
        ))
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    let path = uri.path().to_owned();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if let Some(ConnectInfo(connection)) = connection {
            let (cut, alive) = (connection.close, connection.alive);
            cuts.add(visitor, Open { path, cut, alive });
        }
        return response;
    }
    // A body whose length is known is a plain answer, not a stream.
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let cut = CancellationToken::new();
    let alive = Arc::new(());
    let open = Open {
        path,
        cut: cut.clone(),
        alive: Arc::downgrade(&alive),
    };
    cuts.add(visitor, open);
    response.map(|inner| {
        Body::new(CutBody {
            inner,
            cut: Box::pin(cut.cancelled_owned()),
            _alive: alive,
        })
    })
}

fn visitor(headers: &HeaderMap) -> Option<Visitor> {
    let cookies = headers.get_all(header::COOKIE).iter();
    let pairs = cookies.filter_map(|value| value.to_str().ok());
    let value = pairs
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    let is_ours = value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then(|| Visitor(value.to_owned()))
}

/// A body that fails when it is cut.
struct CutBody {
    inner: Body,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _alive: Arc<()>,
}

impl HttpBody for CutBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, "cut on request");
            return Poll::Ready(Some(Err(axum::Error::new(error))));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
