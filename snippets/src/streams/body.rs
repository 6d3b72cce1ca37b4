//! Response bodies from streams: NDJSON, and downloads of files.
//!
//! NDJSON (`application/x-ndjson`, one JSON text a line) is for programs and `fetch`; for `EventSource` use SSE. Promise: a
//! reader can always tell a complete answer from a cut one: NDJSON by its last line, a download by its `Content-Length`.
//!
//! Siblings: none. The source is polled when hyper has room for more, so the reader's pace reaches it.

use std::{io, path::Path};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::ReaderStream,
};

// ANCHOR: line
/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<T> {
    /// An item.
    Item(T),
    /// The answer is complete; the number of items.
    End(u64),
    /// The answer is not complete: a code that the client may see. The reason goes to the log.
    Failed(String),
}
// ANCHOR_END: line

/// Streams `rows` as NDJSON. `public` turns an error into the code that the client sees.
pub fn ndjson<T, E, S>(rows: S, public: fn(&E) -> &'static str) -> Response
where
    S: Stream<Item = Result<T, E>> + Send + Unpin + 'static,
    T: Serialize + Send + 'static,
    E: Send + 'static,
{
    // ANCHOR: write
    let lines = stream::unfold((Some(rows), 0), move |(rows, count)| async move {
        let mut rows = rows?;
        match rows.next().await {
            Some(Ok(row)) => Some((Line::Item(row), (Some(rows), count + 1))),
            // In band: an `Err` of the body would cut the connection, and lines that were not flushed would be lost.
            Some(Err(error)) => Some((Line::Failed(public(&error).to_owned()), (None, count))),
            None => Some((Line::End(count), (None, count))),
        }
    });
    let bytes = lines.map(|line| {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n'); // JSON escapes line breaks, so this is the only one
        Ok::<_, serde_json::Error>(Bytes::from(text))
    });
    // `CompressionLayer` polls once more after the end, where an `unfold` that is not fused panics.
    let body = Body::from_stream(bytes.fuse());
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
    // ANCHOR_END: write
}

/// Why reading failed. The items read before are valid, but they are not the complete answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The body ended, cleanly or not, before the last line: some proxies end a cut body properly.
    #[error("the answer was cut")]
    Cut,
    /// The server says so.
    #[error("the server failed: {0}")]
    Failed(String),
    /// A line that is longer than the limit or not UTF-8.
    #[error(transparent)]
    Line(#[from] LinesCodecError),
    /// A line that is not one of [`Line`].
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Reads what [`ndjson`] wrote, from any reader of bytes. A chunk of the body is not a line: chunks are split and joined on the way,
/// within a line and within a character.
///
/// `longest` bounds the buffer, in bytes. For `reqwest`: `StreamReader::new(response.bytes_stream().map_err(io::Error::other))`.
pub fn read_ndjson<T>(
    body: impl AsyncRead + Unpin,
    longest: usize,
) -> impl Stream<Item = Result<T, ReadError>>
where
    T: for<'de> Deserialize<'de>,
{
    // ANCHOR: read
    let lines = FramedRead::new(body, LinesCodec::new_with_max_length(longest));
    stream::unfold((Some(lines), 0), |(lines, count)| async move {
        let mut lines = lines?;
        let error = match lines.next().await {
            // The codec also yields a last line without a line break: if it ends within its JSON, it was cut.
            Some(Ok(line)) => match serde_json::from_str(&line) {
                Ok(Line::Item(item)) => return Some((Ok(item), (Some(lines), count + 1))),
                Ok(Line::End(sent)) if sent == count => return None,
                Ok(Line::End(_)) => ReadError::Cut,
                Ok(Line::Failed(code)) => ReadError::Failed(code),
                Err(error) if error.is_eof() => ReadError::Cut,
                Err(error) => error.into(),
            },
            Some(Err(LinesCodecError::Io(error))) if error.kind() != io::ErrorKind::InvalidData => {
                ReadError::Cut
            }
            Some(Err(error)) => error.into(),
            None => ReadError::Cut,
        };
        Some((Err(error), (None, count)))
    })
    .fuse()
    // ANCHOR_END: read
}

// ANCHOR: download
/// Sends a file in pieces of 64 KiB. The Content-Length shows the client that a body was cut, so here an `Err` may cut
/// it: a file has no place for a message.
///
/// # Errors
/// The file cannot be opened. `path` must come from your own records, never from the request.
pub async fn download(path: &Path) -> io::Result<Response> {
    let file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    let body = Body::from_stream(ReaderStream::with_capacity(
        tokio::io::AsyncReadExt::take(file, length),
        64 * 1024,
    ));
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    Ok((headers, body).into_response())
}
// ANCHOR_END: download
