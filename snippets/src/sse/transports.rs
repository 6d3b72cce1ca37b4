//! How `super::consume` sends its requests: over reqwest, or over hyper.

use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Response};

// ANCHOR: reqwest
/// Over reqwest. Its `timeout` must not be set: it limits the whole body.
pub fn over_reqwest(
    client: reqwest::Client,
    url: String,
) -> impl FnMut(
    HeaderMap,
) -> Pin<Box<dyn Future<Output = reqwest::Result<Response<reqwest::Body>>> + Send>> {
    move |headers| {
        let request = client.get(&url).headers(headers);
        Box::pin(async move { request.send().await.map(Response::from) })
    }
}
// ANCHOR_END: reqwest

type HyperClient = hyper_util::client::legacy::Client<
    hyper_util::client::legacy::connect::HttpConnector,
    http_body_util::Empty<Bytes>,
>;

/// Over hyper's client. It follows no redirects.
pub fn over_hyper(
    client: HyperClient,
    uri: http::Uri,
) -> impl FnMut(HeaderMap) -> hyper_util::client::legacy::ResponseFuture {
    move |headers| {
        let mut request = http::Request::new(http_body_util::Empty::new());
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        client.request(request)
    }
}
