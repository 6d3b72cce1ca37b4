//! `websocket/binary`: what is read is bounded, whole and exact; two generations of clients at one endpoint.

use proptest::prelude::*;
use snippets::websocket::binary;
use snippets::websocket::binary::{Bad, MAX_PAYLOAD, Series, decode, encode};
use snippets::websocket::serve::Limits;
use snippets::websocket::serve::Sockets;
use tokio_util::sync::CancellationToken;

use crate::support::frames::{BINARY, Cut, Seen, TEXT};
use crate::support::{Frame, FrameClient, Server};

/// A payload of `payload` and what it is compressed to, behind the header of a series.
fn compressed(payload: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut message = vec![1, 1, 0, 0, 0, 7];
    let mut encoder = flate2::write::ZlibEncoder::new(&mut message, flate2::Compression::best());
    encoder.write_all(payload).unwrap();
    encoder.finish().unwrap();
    message
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn server() -> Server {
    let sockets = Sockets::new(Limits::default(), CancellationToken::new());
    Server::start(binary::router(sockets)).await
}

async fn connect(server: &Server, offer: &str) -> FrameClient {
    let offer = format!("sec-websocket-protocol: {offer}");
    FrameClient::handshake(server.addr, "/series", &[&offer]).await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_series_comes_back(id: u32, values in prop::collection::vec(-1e300..1e300f64, 0..300), same: bool) {
        let values = if same { vec![1.5; values.len()] } else { values };
        let series = Series { id, values };
        prop_assert_eq!(decode(&encode(&series)), Ok(series));
    }

    #[test]
    fn no_bytes_panic_or_grow(message in prop::collection::vec(any::<u8>(), 0..200), flags in 0..2u8) {
        let mut message = message;
        if let [kind, second, ..] = &mut message[..] {
            (*kind, *second) = (1, flags);
        }
        if let Ok(series) = decode(&message) {
            prop_assert!(series.values.len() <= MAX_PAYLOAD / 8);
        }
    }
}

#[test]
fn only_what_gains_is_compressed() {
    let flags = |values: Vec<f64>| encode(&Series { id: 1, values })[1];
    assert_eq!(flags(vec![0.0; 10]), 0, "short");
    assert_eq!(flags(vec![0.0; 1000]), 1);
    let noise = |n: u64| f64::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2);
    let noise: Vec<f64> = (1..1000).map(|n| noise(noise(n).to_bits())).collect();
    assert_eq!(flags(noise), 0, "noise");
}

#[test]
fn a_bomb_is_refused_at_the_bound() {
    let just = vec![0; MAX_PAYLOAD];
    assert_eq!(
        decode(&compressed(&just)).unwrap().values.len(),
        MAX_PAYLOAD / 8
    );
    assert_eq!(
        decode(&compressed(&[just, vec![0; 8]].concat())),
        Err(Bad::TooLarge)
    );
    let bomb = compressed(&vec![0; 4 << 20]);
    assert!(
        bomb.len() < 64 * 1024,
        "within the message limit: {}",
        bomb.len()
    );
    assert_eq!(decode(&bomb), Err(Bad::TooLarge));
    // Also without compression.
    let plain = [&[1, 0, 0, 0, 0, 7][..], &vec![0; MAX_PAYLOAD + 8]].concat();
    assert_eq!(decode(&plain), Err(Bad::TooLarge));
}

#[test]
fn a_stream_that_is_cut_changed_or_followed_by_more_is_refused() {
    let whole = compressed(&[7; 4096]);
    assert_eq!(decode(&whole).unwrap().id, 7);
    for cut in 6..whole.len() {
        assert_eq!(decode(&whole[..cut]), Err(Bad::Compression), "{cut}");
    }
    assert_eq!(decode(&[&whole[..], b"x"].concat()), Err(Bad::Compression));
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1; // the checksum
    assert_eq!(decode(&changed), Err(Bad::Compression));
}

#[test]
fn what_this_version_does_not_know_is_refused() {
    for message in [
        &b""[..],
        &[1, 0, 0, 0, 0],
        &[2, 0, 0, 0, 0, 1],
        &[1, 2, 0, 0, 0, 1],
        &[1, 3, 0, 0, 0, 1],
    ] {
        assert_eq!(decode(message), Err(Bad::Malformed), "{message:?}");
    }
    assert_eq!(
        decode(&[1, 0, 0, 0, 0, 1, 0, 0, 0]),
        Err(Bad::Malformed),
        "half a value"
    );
    assert_eq!(
        decode(&[1, 0, 0, 0, 0, 1]),
        Ok(Series {
            id: 1,
            values: vec![]
        })
    );
}

/// Two clients at one server; the bytes are those that the TypeScript codec is tested with.
#[tokio::test]
async fn transcript() {
    let server = server().await;
    let mut old = connect(&server, "series.v1").await;
    old.send_text(r#"{"id":1,"values":[1.0,3.0]}"#).await;
    assert_eq!(old.next_text().await, r#"{"id":1,"values":[1.0,2.0]}"#);
    let mut text = old.transcript();
    // In the client's order of preference: the server's own counts.
    let mut new = connect(&server, "series.v1, series.v2").await;
    let mut lines = Vec::new();
    for values in [vec![1.0, 3.0], vec![0.5; 512]] {
        let sent = encode(&Series {
            id: 1,
            values: values.clone(),
        });
        new.send(Frame::new(BINARY, &sent)).await;
        let answer = new.next().await.frame();
        assert_eq!(answer.opcode, BINARY);
        let mean = decode(&answer.payload).unwrap();
        assert_eq!(
            (mean.id, mean.values.len(), mean.values[1]),
            (1, values.len(), if values.len() == 2 { 2.0 } else { 0.5 })
        );
        lines.push(format!("binary {}", hex(&sent)));
    }
    text.push_str("\n[another connection]\n");
    text.push_str(new.transcript().split_once("\n\n\n").unwrap().1);
    text.push_str(&format!(
        "\n[the two messages of the client]\n{}",
        lines.join("\n")
    ));
    insta::assert_snapshot!(text);
}

#[tokio::test]
async fn each_version_is_kept_to_and_none_is_no_default() {
    let server = server().await;
    for offer in ["series.v3", "chat"] {
        assert_eq!(connect(&server, offer).await.status(), 400);
    }
    assert_eq!(
        FrameClient::handshake(server.addr, "/series", &[])
            .await
            .status(),
        400
    );
    let bomb = compressed(&vec![0; 4 << 20]);
    for (offer, frame, code) in [
        (
            "series.v1",
            Frame::new(BINARY, vec![1, 0, 0, 0, 0, 1]),
            1003,
        ),
        (
            "series.v1",
            Frame::text(r#"{"id":1,"values":[1],"unit":"m"}"#),
            1007,
        ),
        ("series.v2", Frame::new(TEXT, "{}"), 1003),
        ("series.v2", Frame::new(BINARY, vec![9]), 1007),
        ("series.v2", Frame::new(BINARY, bomb), 1009),
    ] {
        let mut client = connect(&server, offer).await;
        client.send(frame).await;
        assert_eq!(client.next_close().await, Some(code), "{offer}");
        client.send(Frame::close(code, "")).await;
        assert_eq!(client.next().await, Seen::Cut(Cut::Fin));
    }
}
