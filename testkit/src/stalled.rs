//! A reader that asks and then does not read.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// Sends a GET for `path` on a connection with small kernel buffers, and reads nothing.
pub async fn stalled_get(addr: SocketAddr, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Small, so that the stall reaches the server after kilobytes instead of megabytes.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(addr).await.unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
        .await
        .unwrap();
    stream
}

/// Waits until `value` has kept its value for 25 looks in a row, 10 ms apart, after it had become at least `least`. What is slow
/// for other reasons makes the value that is returned smaller, never larger: assert upper bounds only.
pub async fn settled(what: &str, least: usize, mut value: impl FnMut() -> usize) -> usize {
    super::within(what, async {
        let (mut last, mut same) = (value(), 0);
        while same < 25 || last < least {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            let now = value();
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last
    })
    .await
}
