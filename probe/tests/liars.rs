//! Peers that lie: whatever they send or leave out, a run ends within its budget, without a panic, and says what it saw.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use stream_probe::{Kind, Options, Report, Unreachable, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{options, show};

/// What a liar answers to whatever it is asked.
#[derive(Debug, Clone)]
enum Lie {
    /// These bytes, then the end of the connection.
    Bytes(Vec<u8>),
    /// These bytes, then these again and again.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes one at a time, then nothing.
    Slowly(Vec<u8>),
    /// Nothing, with the connection open.
    Silence,
}

impl Lie {
    async fn tell(&self, socket: &mut TcpStream) -> std::io::Result<()> {
        // Part of what is asked is enough: some of it is no HTTP at all.
        let mut asked = [0; 2048];
        let _ = socket.read(&mut asked).await?;
        match self {
            Lie::Bytes(bytes) => socket.write_all(bytes).await?,
            Lie::Endless(head, unit) => {
                socket.write_all(head).await?;
                // Bounded: a probe that took all of it would be wrong in another way.
                for _ in 0..(200 << 20) / unit.len().max(1) {
                    socket.write_all(unit).await?;
                }
            }
            Lie::Slowly(bytes) => {
                for byte in bytes {
                    socket.write_all(&[*byte]).await?;
                    tokio::task::yield_now().await;
                }
                let mut rest = Vec::new();
                socket.read_to_end(&mut rest).await?;
            }
            Lie::Silence => {
                let mut rest = Vec::new();
                socket.read_to_end(&mut rest).await?;
            }
        }
        Ok(())
    }
}

async fn liar(lie: Lie) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let lie = lie.clone();
            tokio::spawn(async move { drop(lie.tell(&mut socket).await) });
        }
    });
    addr
}

const EVENTS: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const GZIP: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n";
const SOCKET: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";

fn with(head: &[u8], rest: &[u8]) -> Vec<u8> {
    [head, rest].concat()
}

/// `bytes` in one chunk of the chunked coding.
fn chunked(bytes: &[u8]) -> Vec<u8> {
    with(EVENTS, &crate::support::chunk(bytes))
}

fn lies() -> Vec<Lie> {
    let line = vec![b'x'; 10 << 20];
    let every_byte: Vec<u8> = (0..=255).collect();
    vec![
        Lie::Silence,
        Lie::Bytes(Vec::new()),
        Lie::Bytes(b"\r\n\r\n".to_vec()),
        Lie::Bytes(b"HTTP/1.1 2OO OK\r\n\r\n".to_vec()),
        Lie::Bytes(b"HTTP/9.9 200 OK\r\n\r\n".to_vec()),
        Lie::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
        Lie::Bytes([every_byte.as_slice(), b"\r\n\r\n"].concat()),
        Lie::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec()),
        Lie::Bytes(b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_vec()),
        Lie::Bytes(
            b"HTTP/1.1 302 Found\r\nlocation: http://\xff\r\ncontent-length: 0\r\n\r\n".to_vec(),
        ),
        Lie::Endless(
            b"HTTP/1.1 200 OK\r\n".to_vec(),
            b"x-more: and more\r\n".to_vec(),
        ),
        Lie::Endless(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        Lie::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), vec![b'h'; 4096]),
        Lie::Slowly(EVENTS[..40].to_vec()),
        Lie::Slowly(chunked(b"retry: 5000\nid: 1\ndata: half of an ev")),
        Lie::Bytes(with(EVENTS, b"ffffffffffffffffffffff\r\n")),
        Lie::Bytes(with(EVENTS, b"fffffffffffffff0\r\ndata: x\n\n")),
        Lie::Bytes(with(EVENTS, b"-5\r\nhello\r\n")),
        Lie::Endless(EVENTS.to_vec(), vec![b'1'; 4096]),
        Lie::Endless(with(EVENTS, b"0\r\n"), b"trailer: x\r\n".to_vec()),
        Lie::Endless(with(EVENTS, b"0\r\n"), vec![b't'; 4096]),
        Lie::Bytes(chunked(&line)),
        Lie::Bytes(chunked(&with(b"data: ", &line))),
        Lie::Bytes(chunked(
            &[every_byte.repeat(100).as_slice(), b"\n\n"].concat(),
        )),
        Lie::Bytes(chunked(
            &b"\n\r\r\n:\0\ndata\nid\nevent:\nretry:\n\n".repeat(500),
        )),
        Lie::Bytes(chunked(
            &b"id: \xff\xfe\nevent: \xc3\ndata: \xed\xa0\x80\n\n".repeat(50),
        )),
        Lie::Endless(
            EVENTS.to_vec(),
            crate::support::chunk(&b"data: flood\n\n".repeat(4000)),
        ),
        Lie::Bytes(with(GZIP, b"data: this is no gzip\n\n")),
        Lie::Bytes(with(GZIP, b"\x1f\x8b\x08\xff\0\0\0\0\0\0\xff\xff")),
        Lie::Bytes(with(
            GZIP,
            &[b"\x1f\x8b\x08\0\0\0\0\0\0\xff".as_slice(), &every_byte].concat(),
        )),
        Lie::Bytes(SOCKET.to_vec()),
        Lie::Bytes(with(SOCKET, &every_byte.repeat(50))),
        // A frame of 2^63 bytes, and one of 60 MiB that never comes.
        Lie::Bytes(with(SOCKET, b"\x81\x7f\x7f\xff\xff\xff\xff\xff\xff\xff")),
        Lie::Slowly(with(SOCKET, b"\x81\x7f\0\0\0\0\x03\xc0\0\0x")),
        Lie::Endless(SOCKET.to_vec(), b"\x89\x01p\x81\x01t".repeat(1000)),
        Lie::Endless(SOCKET.to_vec(), b"\x8a\x00\x80\x00".repeat(1000)),
    ]
}

fn of(kind: Kind, addr: SocketAddr) -> Options {
    let mut options = options(addr, "/");
    options.budget = BUDGET;
    options.connects = 5;
    if kind == Kind::Llm {
        options.method = "POST".to_owned();
        options.body = Some(b"{}".to_vec());
    }
    options
}

const BUDGET: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(50);

async fn told(kind: Kind, options: Options) -> Result<Report, Unreachable> {
    // A panic of the probe fails the task.
    let mut run = tokio::spawn(async move { stream_probe::run(kind, &options, None).await });
    // Counted in steps, which are as late as the run on a busy machine.
    let mut took = Duration::ZERO;
    loop {
        match tokio::time::timeout(STEP, &mut run).await {
            Ok(report) => return report.unwrap(),
            Err(_) => took += STEP,
        }
        // Far more than the budget.
        assert!(took < Duration::from_secs(60), "{kind:?}: a run hangs");
    }
}

/// Every check has a verdict, something is wrong, and what is wrong has evidence.
fn judge(kind: Kind, name: &str, result: Result<Report, Unreachable>) {
    let Ok(report) = result else { return };
    let checks = stream_probe::checks::CHECKS;
    let all = checks.iter().filter(|check| check.kind == kind).count();
    assert_eq!(report.findings.len(), all, "{kind:?} {name}");
    for finding in &report.findings {
        assert!(
            !finding.evidence.is_empty(),
            "{kind:?} {name}: {}",
            finding.line()
        );
    }
    let failed = report.ids(Verdict::Failed);
    assert!(
        !failed.is_empty(),
        "{kind:?} {name}: nothing is wrong\n{}",
        show(&report)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lie_hangs_or_breaks_a_run() {
    let runs = lies().into_iter().flat_map(|lie| {
        [Kind::Sse, Kind::Ws, Kind::Llm].map(|kind| {
            let lie = lie.clone();
            async move {
                let mut name = format!("{lie:?}");
                name.truncate(name.floor_char_boundary(80));
                let options = of(kind, liar(lie).await);
                judge(kind, &name, told(kind, options).await);
            }
        })
    });
    join_all(runs).await;
}

/// A right answer that is cut at each of its bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_each_byte_is_told() {
    let whole = [
        chunked(b"retry: 5000\n\nid: 1\nevent: a\ndata: x\n\n").as_slice(),
        b"0\r\n\r\n",
    ]
    .concat();
    let socket = with(SOCKET, b"\x81\x03abc\x88\x02\x03\xe8");
    let cuts =
        |kind, bytes: Vec<u8>| (0..bytes.len()).map(move |cut| (kind, cut, bytes[..cut].to_vec()));
    let runs = cuts(Kind::Sse, whole.clone())
        .chain(cuts(Kind::Llm, whole))
        .chain(cuts(Kind::Ws, socket))
        .map(|(kind, cut, bytes)| async move {
            let options = of(kind, liar(Lie::Bytes(bytes)).await);
            let name = format!("cut after {cut} bytes");
            judge(kind, &name, told(kind, options).await);
        });
    join_all(runs).await;
}

/// A peer that accepts the connection and never ends the TLS handshake: no check has its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_never_ends_keeps_to_the_budget() {
    let addr = liar(Lie::Silence).await;
    let runs = [Kind::Sse, Kind::Ws, Kind::Llm].map(|kind| async move {
        let mut options = of(kind, addr);
        options.target.secure = true;
        judge(kind, "no handshake", told(kind, options).await);
    });
    join_all(runs).await;
}
