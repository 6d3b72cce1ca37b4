//! HTTP/2 frame by frame (RFC 9113): one connection, each of whose streams is answered alike.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// How the streams are answered.
pub struct Answer {
    /// The header block of each response; see [`field`].
    pub block: Vec<u8>,
    /// SETTINGS_MAX_CONCURRENT_STREAMS
    pub streams: u32,
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL
    pub connect: bool,
    /// The first bytes of each body.
    pub prelude: String,
    /// The fault: one cancelled stream ends the connection.
    pub ends_when_cancelled: bool,
}

/// A literal field without indexing (RFC 7541, section 6.2.2) of less than 127 bytes.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| vec![text.len() as u8];
    [
        vec![0],
        length(name),
        name.into(),
        length(value),
        value.into(),
    ]
    .concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Serves a connection of which `PRI * HTTP/2.0` and its blank line have been read. Each item of `sent` goes to every open stream.
pub async fn serve(
    mut socket: TcpStream,
    answer: Answer,
    mut sent: BoxStream<'static, Vec<u8>>,
) -> std::io::Result<()> {
    socket.read_exact(&mut [0; 6]).await?; // SM and a blank line
    let mut settings = [&[0, 3][..], &answer.streams.to_be_bytes()].concat();
    if answer.connect {
        settings.extend([0, 8, 0, 0, 0, 1]);
    }
    socket.write_all(&frame(SETTINGS, 0, 0, &settings)).await?;
    let mut open = BTreeSet::new();
    let mut received = Vec::new();
    loop {
        while let [a, b, c, kind, flags, stream @ ..] = &received[..]
            && let Some(stream) = stream.first_chunk::<4>()
        {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if received.len() < 9 + length {
                break;
            }
            let (kind, flags, stream) = (*kind, *flags, u32::from_be_bytes(*stream));
            let payload: Vec<u8> = received.drain(..9 + length).skip(9).collect();
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    socket.write_all(&frame(SETTINGS, ACK, 0, &[])).await?;
                }
                PING if flags & ACK == 0 => {
                    socket.write_all(&frame(PING, ACK, 0, &payload)).await?;
                }
                HEADERS => {
                    open.insert(stream);
                    socket
                        .write_all(&frame(HEADERS, 4, stream, &answer.block))
                        .await?;
                    let prelude = frame(DATA, 0, stream, answer.prelude.as_bytes());
                    socket.write_all(&prelude).await?;
                }
                RST_STREAM if answer.ends_when_cancelled => return Ok(()),
                RST_STREAM => drop(open.remove(&stream)),
                _ => {}
            }
        }
        tokio::select! {
            read = socket.read_buf(&mut received) => if read? == 0 {
                return Ok(());
            },
            Some(bytes) = sent.next() => for stream in &open {
                socket.write_all(&frame(DATA, 0, *stream, &bytes)).await?;
            },
        }
    }
}
