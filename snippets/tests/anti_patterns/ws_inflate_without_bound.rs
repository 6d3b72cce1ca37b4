//! Wrong: `ZlibDecoder::new(data).read_to_end(&mut payload)` on a message whose size was checked before.
//! Harm: A message of 8 KiB within all limits becomes 8 MiB of memory, one of 64 KiB 64 MiB.
//! Instead: websocket/binary
//! Probe: cannot see: the probe does not offer compression

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use snippets::websocket::binary::{self, Bad};
use snippets::websocket::serve::Limits;

/// As people write it.
fn payload_of(message: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    ZlibDecoder::new(&message[6..])
        .read_to_end(&mut payload)
        .unwrap();
    payload
}

fn bomb() -> Vec<u8> {
    let mut message = vec![1, 1, 0, 0, 0, 1];
    let mut encoder = ZlibEncoder::new(&mut message, Compression::best());
    encoder.write_all(&vec![0; 8 << 20]).unwrap();
    encoder.finish().unwrap();
    message
}

#[test]
fn a_small_message_takes_a_thousand_times_its_size() {
    let bomb = bomb();
    assert!(bomb.len() < Limits::default().message);
    assert!(payload_of(&bomb).len() > 900 * bomb.len());
}

#[test]
fn the_pattern_stops_at_its_bound() {
    assert_eq!(binary::decode(&bomb()), Err(Bad::TooLarge));
}
