//! An HTTP/1.1 client that sees exact bytes, and how the response ended.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// How a response body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The last chunk (`0\r\n\r\n`) arrived: the server ended the body on purpose.
    Complete,
    /// FIN without the last chunk: a truncated body.
    Fin,
    /// RST.
    Reset,
    /// Nothing yet: the response is still open.
    Open,
}

/// One connection.
pub struct RawClient {
    pub socket: TcpStream,
    /// Everything received so far, as on the wire.
    pub received: Vec<u8>,
    pub end: End,
}

impl RawClient {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self {
            socket: TcpStream::connect(addr).await.unwrap(),
            received: Vec::new(),
            end: End::Open,
        }
    }

    /// Connects and sends a GET with `headers` (`name: value` each).
    pub async fn get(addr: SocketAddr, path: &str, headers: &[&str]) -> Self {
        let mut client = Self::connect(addr).await;
        client.send_request("GET", path, headers).await;
        client
    }

    pub async fn send_request(&mut self, method: &str, path: &str, headers: &[&str]) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        for header in headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        self.socket.write_all(request.as_bytes()).await.unwrap();
    }

    /// Reads once; returns false when the connection has ended.
    pub async fn read_some(&mut self) -> bool {
        if self.end != End::Open {
            return false;
        }
        // Not an array: it would be in the future of every wait, and a debug build copies that several times over its stack.
        let mut buffer = vec![0_u8; 16 * 1024];
        match self.socket.read(&mut buffer).await {
            Ok(0) => {
                self.end = End::Fin;
                false
            }
            Ok(n) => {
                self.received.extend_from_slice(&buffer[..n]);
                if dechunk(self.body_bytes()).1 {
                    self.end = End::Complete;
                }
                true
            }
            Err(_) => {
                self.end = End::Reset;
                false
            }
        }
    }

    /// Reads until the (decoded) body contains `needle`; panics when the response ends first.
    pub async fn read_until(&mut self, needle: &str) -> String {
        let what = format!("{needle:?} in the body");
        within(&what, async {
            loop {
                let body = self.body();
                if body.contains(needle) {
                    return body;
                }
                assert!(
                    self.read_some().await,
                    "the response ended ({:?}) before {needle:?}: {}",
                    self.end,
                    String::from_utf8_lossy(&self.received)
                );
            }
        })
        .await
    }

    /// Reads until the response head is complete and returns it.
    pub async fn read_head(&mut self) -> String {
        within("the response head", async {
            while self.head_len().is_none() {
                assert!(self.read_some().await, "no response head: {:?}", self.end);
            }
        })
        .await;
        self.head()
    }

    /// Reads until the response ends, and says how.
    pub async fn read_to_end(&mut self) -> End {
        within("the end of the response", async {
            while self.end == End::Open && self.read_some().await {}
        })
        .await;
        self.end
    }

    fn head_len(&self) -> Option<usize> {
        self.received
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .map(|at| at + 4)
    }

    pub fn head(&self) -> String {
        let len = self.head_len().unwrap_or(self.received.len());
        String::from_utf8_lossy(&self.received[..len]).into_owned()
    }

    /// The number after `HTTP/1.1 `.
    pub fn status(&self) -> u16 {
        self.head().get(9..12).unwrap_or("0").parse().unwrap_or(0)
    }

    fn body_bytes(&self) -> &[u8] {
        &self.received[self.head_len().unwrap_or(self.received.len())..]
    }

    /// The body so far, with the chunked transfer coding removed where it is used.
    pub fn body(&self) -> String {
        let chunked = self
            .head()
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let bytes = if chunked {
            dechunk(self.body_bytes()).0
        } else {
            self.body_bytes().to_vec()
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Removes the chunked coding (RFC 9112, section 7.1); the flag says whether the last chunk was seen.
pub fn dechunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = bytes.windows(2).position(|w| w == b"\r\n") else {
            return (body, false);
        };
        let size = std::str::from_utf8(&bytes[..line_end])
            .ok()
            .and_then(|line| usize::from_str_radix(line.trim(), 16).ok());
        let Some(size) = size else {
            return (body, false);
        };
        bytes = &bytes[line_end + 2..];
        if size == 0 {
            return (body, bytes.starts_with(b"\r\n"));
        }
        if bytes.len() < size + 2 {
            body.extend_from_slice(&bytes[..bytes.len().min(size)]);
            return (body, false);
        }
        body.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}
