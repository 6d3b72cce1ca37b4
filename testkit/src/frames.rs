//! A WebSocket client on the level of frames: it sends any bytes, also wrong ones, and shows what came back as text.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// One frame, as in RFC 6455, section 5.2. The mask of the client's frames is a constant, so that transcripts are stable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub rsv: u8,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self {
            fin: true,
            rsv: 0,
            opcode,
            masked: true,
            payload: payload.as_ref().to_vec(),
        }
    }

    pub fn text(text: &str) -> Self {
        Self::new(TEXT, text)
    }

    pub fn close(code: u16, reason: &str) -> Self {
        Self::new(CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
    }

    /// Not the last frame of its message.
    pub fn more(mut self) -> Self {
        self.fin = false;
        self
    }

    pub fn rsv(mut self, bits: u8) -> Self {
        self.rsv = bits;
        self
    }

    pub fn unmasked(mut self) -> Self {
        self.masked = false;
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        let mask_bit = u8::from(self.masked) << 7;
        match self.payload.len() {
            len @ 0..=125 => out.push(mask_bit | len as u8),
            len @ 126..=0xffff => {
                out.push(mask_bit | 126);
                out.extend((len as u16).to_be_bytes());
            }
            len => {
                out.push(mask_bit | 127);
                out.extend((len as u64).to_be_bytes());
            }
        }
        if self.masked {
            let mask = [0x37, 0xfa, 0x21, 0x3d];
            out.extend(mask);
            out.extend(
                self.payload
                    .iter()
                    .zip(mask.iter().cycle())
                    .map(|(byte, mask)| byte ^ mask),
            );
        } else {
            out.extend(&self.payload);
        }
        out
    }

    /// The first whole frame of `bytes` and its length on the wire.
    pub fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (len, mut at) = match second & 0x7f {
            126 => (
                u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize,
                4,
            ),
            127 => (
                u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
                10,
            ),
            len => (len as usize, 2),
        };
        let masked = second & 0x80 != 0;
        let mask: [u8; 4] = if masked {
            at += 4;
            bytes.get(at - 4..at)?.try_into().ok()?
        } else {
            [0; 4]
        };
        let payload = bytes.get(at..at + len)?;
        let payload = payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask)
            .collect();
        let frame = Self {
            fin: first & 0x80 != 0,
            rsv: first >> 4 & 7,
            opcode: first & 15,
            masked,
            payload,
        };
        Some((frame, at + len))
    }

    pub fn text_payload(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    pub fn close_code(&self) -> Option<u16> {
        (self.opcode == CLOSE).then(|| u16::from_be_bytes(self.payload[..2].try_into().unwrap()))
    }

    /// One line: opcode, flags, length, payload.
    pub fn describe(&self) -> String {
        let opcode = match self.opcode {
            CONTINUATION => "CONTINUATION".to_owned(),
            TEXT => "TEXT".to_owned(),
            BINARY => "BINARY".to_owned(),
            CLOSE => "CLOSE".to_owned(),
            PING => "PING".to_owned(),
            PONG => "PONG".to_owned(),
            other => format!("0x{other:x}"),
        };
        let mut line = opcode;
        line.push_str(if self.fin { " fin" } else { " more" });
        for bit in 0..3 {
            if self.rsv & (4 >> bit) != 0 {
                line.push_str(&format!(" rsv{}", bit + 1));
            }
        }
        if self.masked {
            line.push_str(" mask");
        }
        line.push_str(&format!(" len={}", self.payload.len()));
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) if text.len() > 500 => format!("{:?}…", &text[..32]),
            Ok(text) => text.to_owned(),
            Err(_) => bytes
                .iter()
                .take(32)
                .map(|b| format!("{b:02x}"))
                .collect::<Vec<_>>()
                .join(" "),
        };
        if self.opcode == CLOSE && self.payload.len() >= 2 {
            line.push_str(&format!(
                " code={} {}",
                self.close_code().unwrap(),
                text(&self.payload[2..])
            ));
        } else if !self.payload.is_empty() {
            line.push_str(&format!(" {}", text(&self.payload)));
        }
        line.trim_end().to_owned()
    }
}

/// How the transport ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Fin,
    Reset,
}

/// What the client received next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Frame(Frame),
    Cut(Cut),
}

impl Seen {
    pub fn frame(self) -> Frame {
        match self {
            Seen::Frame(frame) => frame,
            Seen::Cut(cut) => panic!("the connection ended ({cut:?}) where a frame was expected"),
        }
    }
}

/// A client that keeps a transcript.
pub struct FrameClient {
    pub socket: TcpStream,
    buffer: Vec<u8>,
    /// The handshake's response head.
    pub head: String,
    lines: Vec<String>,
}

/// The handshake that every browser sends, with `headers` (`name: value` each) added.
pub fn handshake_request(path: &str, headers: &[&str]) -> String {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request
}

impl FrameClient {
    /// Sends the handshake and reads the response head, whatever its status.
    pub async fn handshake(addr: SocketAddr, path: &str, headers: &[&str]) -> Self {
        Self::handshake_on(TcpStream::connect(addr).await.unwrap(), path, headers).await
    }

    pub async fn handshake_on(socket: TcpStream, path: &str, headers: &[&str]) -> Self {
        let mut client = Self {
            socket,
            buffer: Vec::new(),
            head: String::new(),
            lines: Vec::new(),
        };
        let request = handshake_request(path, headers);
        client.socket.write_all(request.as_bytes()).await.unwrap();
        let head_len = within("the handshake's response", async {
            loop {
                if let Some(at) = client.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    return at + 4;
                }
                let n = client.socket.read_buf(&mut client.buffer).await.unwrap();
                assert!(n > 0, "no response to the handshake");
            }
        })
        .await;
        client.head = String::from_utf8(client.buffer.drain(..head_len).collect()).unwrap();
        client.lines.push(request.replace("\r\n", "\n"));
        let head: Vec<_> = client
            .head
            .trim_end()
            .lines()
            .map(|l| {
                if l.starts_with("date: ") {
                    "date: [date]"
                } else {
                    l
                }
            })
            .collect();
        client.lines.push(head.join("\n") + "\n");
        client
    }

    /// Connects; panics when the handshake is refused.
    pub async fn connect(addr: SocketAddr, path: &str) -> Self {
        let client = Self::handshake(addr, path, &[]).await;
        assert_eq!(client.status(), 101, "{}", client.head);
        client
    }

    /// A client whose receive buffer is small, so that a server soon notices that it does not read.
    pub async fn connect_small(addr: SocketAddr, path: &str) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let client = Self::handshake_on(socket.connect(addr).await.unwrap(), path, &[]).await;
        assert_eq!(client.status(), 101, "{}", client.head);
        client
    }

    pub fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    pub async fn send(&mut self, frame: Frame) {
        self.lines.push(format!("> {}", frame.describe()));
        self.socket.write_all(&frame.encode()).await.unwrap();
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send(Frame::text(text)).await;
    }

    /// The next frame, or how the connection ended.
    pub async fn next(&mut self) -> Seen {
        let seen = within("a frame", self.next_unbounded()).await;
        self.write_down(&seen);
        seen
    }

    fn write_down(&mut self, seen: &Seen) {
        self.lines.push(match seen {
            Seen::Frame(frame) => format!("< {}", frame.describe()),
            Seen::Cut(Cut::Fin) => "< [FIN]".to_owned(),
            Seen::Cut(Cut::Reset) => "< [RST]".to_owned(),
        });
    }

    async fn next_unbounded(&mut self) -> Seen {
        loop {
            if let Some((frame, len)) = Frame::decode(&self.buffer) {
                self.buffer.drain(..len);
                return Seen::Frame(frame);
            }
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) => return Seen::Cut(Cut::Fin),
                Ok(_) => {}
                Err(_) => return Seen::Cut(Cut::Reset),
            }
        }
    }

    /// The next message, which is text. Pings on the way are passed over: they come whenever the machine was slow.
    pub async fn next_text(&mut self) -> String {
        let seen = within("a message", async {
            loop {
                match self.next_unbounded().await {
                    Seen::Frame(frame) if frame.opcode == PING => {}
                    seen => return seen,
                }
            }
        })
        .await;
        self.write_down(&seen);
        let frame = seen.frame();
        assert_eq!(frame.opcode, TEXT, "{}", frame.describe());
        frame.text_payload().to_owned()
    }

    pub async fn next_json(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.next_text().await).unwrap()
    }

    /// Reads on, past other frames, to the next Close and returns its code; None when the connection ends without.
    pub async fn next_close(&mut self) -> Option<u16> {
        loop {
            match self.next().await {
                Seen::Frame(frame) if frame.opcode == CLOSE => return frame.close_code(),
                Seen::Frame(_) => {}
                Seen::Cut(_) => return None,
            }
        }
    }

    /// A line of explanation in the transcript.
    pub fn note(&mut self, line: &str) {
        self.lines.push(format!("[{line}]"));
    }

    /// The handshake and all frames so far: `>` from the client, `<` from the server.
    pub fn transcript(&self) -> String {
        self.lines.join("\n")
    }
}
