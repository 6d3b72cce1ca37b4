//! Binary messages under a subprotocol of their own: a small encoding with a version, compressed by the application where
//! that pays, and decompressed up to a bound.
//!
//! For arrays of numbers and for long texts. tungstenite negotiates no permessage-deflate, and needs none for this: an event
//! for many members is compressed once, and no connection keeps a compressor. [`router`] serves clients of this version and of an
//! earlier one in JSON. Goes with [`super::serve`]; put [`super::protect`] before it.

use std::io::{Read, Write};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::Message;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use super::outbox::Outbox;
use super::serve::{Handler, Sockets, Upgrade};

// ANCHOR: format
/// Largest payload, in bytes before compression. [`super::serve::Limits::message`] does not bound it, because zlib packs up to a
/// thousand bytes into one; a size that the peer states is not a bound either.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// Shorter payloads are not compressed.
const COMPRESS_FROM: usize = 512;

/// Byte 0 of a message: what it is.
const SERIES: u8 = 1;
/// Byte 1, flags: the payload is compressed (zlib, RFC 1950). Other flags are refused, so that a later version can use them.
const COMPRESSED: u8 = 1;
/// Bytes 2 to 5: the id, big-endian. Then the payload: values of 8 bytes, IEEE 754, little-endian, as in a `Float64Array`.
const HEADER: usize = 6;
// ANCHOR_END: format

/// Some numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// The sender's; an answer has the same.
    pub id: u32,
    /// At most [`MAX_PAYLOAD`] / 8.
    pub values: Vec<f64>,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Too short, or of a kind or with flags that this version does not know, or not whole values.
    #[error("malformed")]
    Malformed,
    /// Not one whole zlib stream and nothing else.
    #[error("not compressed as it says")]
    Compression,
    /// More than [`MAX_PAYLOAD`] before compression.
    #[error("too large")]
    TooLarge,
}

/// The message of a series; compressed only when that makes it shorter.
pub fn encode(series: &Series) -> Bytes {
    let payload: Vec<u8> = series.values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let compressed = (payload.len() >= COMPRESS_FROM)
        .then(|| deflate(&payload))
        .filter(|compressed| compressed.len() < payload.len());
    let mut message = BytesMut::with_capacity(HEADER + payload.len());
    message.put_u8(SERIES);
    message.put_u8(u8::from(compressed.is_some()) * COMPRESSED);
    message.put_u32(series.id);
    message.put_slice(compressed.as_ref().unwrap_or(&payload));
    message.freeze()
}

// ANCHOR: decode
/// The series of a message.
pub fn decode(message: &[u8]) -> Result<Series, Bad> {
    let (header, payload) = message
        .split_first_chunk::<HEADER>()
        .ok_or(Bad::Malformed)?;
    let [SERIES, flags, id @ ..] = *header else {
        return Err(Bad::Malformed);
    };
    let inflated = match flags {
        0 => None,
        COMPRESSED => Some(inflate(payload, MAX_PAYLOAD)?),
        _ => return Err(Bad::Malformed),
    };
    let payload = inflated.as_deref().unwrap_or(payload);
    if payload.len() > MAX_PAYLOAD {
        return Err(Bad::TooLarge);
    }
    let (values, []) = payload.as_chunks::<8>() else {
        return Err(Bad::Malformed);
    };
    Ok(Series {
        id: u32::from_be_bytes(id),
        values: values.iter().map(|v| f64::from_le_bytes(*v)).collect(),
    })
}
// ANCHOR_END: decode

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(payload);
    written.and_then(|()| encoder.finish()).unwrap_or_default() // into a Vec: cannot fail
}

// ANCHOR: inflate
/// Reads at most one byte more than `max`, so that a decompression bomb costs no more than the largest allowed message.
fn inflate(data: &[u8], max: usize) -> Result<Vec<u8>, Bad> {
    let mut decoder = ZlibDecoder::new(data);
    let mut payload = Vec::new();
    let mut bounded = decoder.by_ref().take(max as u64 + 1);
    bounded
        .read_to_end(&mut payload)
        .map_err(|_| Bad::Compression)?;
    if payload.len() > max {
        return Err(Bad::TooLarge);
    }
    // Bytes after the compressed stream would pass unchecked.
    if decoder.total_in() != data.len() as u64 {
        return Err(Bad::Compression);
    }
    Ok(payload)
}
// ANCHOR_END: inflate

// ANCHOR: endpoint
/// Best first: the server takes the first of these that the client offers, in whatever order the client does. A version is
/// removed when nobody offers it any more; count them.
pub const SUBPROTOCOLS: [&str; 2] = ["series.v2", "series.v1"];

/// `/series`: answers each series with its running mean.
pub fn router(sockets: Sockets) -> Router {
    Router::new()
        .route("/series", any(upgrade))
        .with_state(sockets)
}

async fn upgrade(State(sockets): State<Sockets>, upgrade: Upgrade) -> Response {
    let upgrade = upgrade.protocols(SUBPROTOCOLS);
    let Some(selected) = upgrade.selected_protocol() else {
        // Nothing says how to read what this client will send.
        return (StatusCode::BAD_REQUEST, "offer series.v2 or series.v1").into_response();
    };
    let binary = selected == SUBPROTOCOLS[0];
    sockets.accept(upgrade, move |_| Endpoint { binary })
}

struct Endpoint {
    binary: bool,
}

impl Handler for Endpoint {
    fn on_message(&mut self, message: Message, outbox: &Outbox) {
        let series = match (&message, self.binary) {
            (Message::Binary(data), true) => decode(data),
            (Message::Text(text), false) => serde_json::from_str(text).map_err(|_| Bad::Malformed),
            _ => return outbox.close(1003, "not in this version"),
        };
        let answer = match series {
            Ok(series) => running_mean(series),
            Err(Bad::TooLarge) => return outbox.close(1009, "message too big"),
            Err(_) => return outbox.close(1007, "malformed"),
        };
        outbox.send(if self.binary {
            Message::Binary(encode(&answer))
        } else {
            // Cannot fail: no map, no key that is not a string.
            Message::Text(serde_json::to_string(&answer).unwrap_or_default().into())
        });
    }
}

fn running_mean(mut series: Series) -> Series {
    let mut sum = 0.0;
    for (n, value) in series.values.iter_mut().enumerate() {
        sum += *value;
        *value = sum / (n + 1) as f64;
    }
    series
}
// ANCHOR_END: endpoint
