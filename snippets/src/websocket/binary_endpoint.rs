//! One endpoint for two generations of clients: `series.v2` is binary, `series.v1` is JSON, and the handshake decides.
//!
//! Goes with [`super::binary`] and [`super::serve`]; put [`super::protect`] before it.

// ANCHOR: endpoint
use axum::Router;
use axum::extract::State;
use axum::extract::ws::Message;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;

use super::binary::{self, Bad, Series};
use super::outbox::Outbox;
use super::serve::{Handler, Sockets, Upgrade};

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
            (Message::Binary(data), true) => binary::decode(data),
            (Message::Text(text), false) => serde_json::from_str(text).map_err(|_| Bad::Malformed),
            _ => return outbox.close(1003, "not in this version"),
        };
        let answer = match series {
            Ok(series) => running_mean(series),
            Err(Bad::TooLarge) => return outbox.close(1009, "message too big"),
            Err(_) => return outbox.close(1007, "malformed"),
        };
        outbox.send(if self.binary {
            Message::Binary(binary::encode(&answer))
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
