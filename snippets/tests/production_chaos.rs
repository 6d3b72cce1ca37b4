//! `production/chaos`: exactly what was asked for, at exactly the byte that was drawn.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use snippets::production::chaos::ChaosProxy;
use snippets::production::chaos_flow::{Cut, End, Fault, Flow, Lane, Plan, pump};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{chaos, eventually, within};

#[path = "../examples/chaos_proxy.rs"]
#[allow(dead_code, clippy::needless_pass_by_value)]
mod command;

/// 40,000 bytes that differ from their neighbours.
fn bytes() -> Vec<u8> {
    (0..40_000_u32).map(|n| (n % 251) as u8).collect()
}

fn faulty(after: u64, fault: Fault) -> Plan {
    Plan {
        to_client: Flow {
            fault: Some((after..=after, fault)),
            ..Flow::default()
        },
        ..Plan::default()
    }
}

/// A server that reads 5 bytes, writes [`bytes`], and says what it reads after them and how that ended.
async fn server() -> (
    SocketAddr,
    tokio::sync::mpsc::Receiver<Result<usize, ErrorKind>>,
) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (say, heard) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let say = say.clone();
            tokio::spawn(async move {
                let mut hello = [0; 5];
                let answer = async {
                    socket.read_exact(&mut hello).await?;
                    socket.write_all(&bytes()).await?;
                    socket.read_to_end(&mut Vec::new()).await
                };
                let end = answer.await;
                let _ = say.send(end.map_err(|error| error.kind())).await;
            });
        }
    });
    (addr, heard)
}

async fn hello(addr: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(b"hello").await.unwrap();
    socket
}

/// Everything that `socket` yields, and how it ended.
async fn read(mut socket: impl AsyncRead + Unpin) -> (Vec<u8>, Result<usize, ErrorKind>) {
    let mut read = Vec::new();
    let end = within("the end", socket.read_to_end(&mut read)).await;
    (read, end.map_err(|error| error.kind()))
}

#[tokio::test]
async fn passes_everything_on_and_each_side_may_close_first() {
    let (server, mut heard) = server().await;
    let hostile = Flow {
        split: Some(1..=700),
        ..Flow::default()
    };
    let plan = Plan {
        to_client: hostile.clone(),
        to_server: hostile,
    };
    let proxy = chaos(server, 1, move |_| plan.clone()).await;
    let mut client = hello(proxy.addr()).await;
    let mut read = vec![0; bytes().len()];
    within("all bytes", client.read_exact(&mut read))
        .await
        .unwrap();
    assert_eq!(read, bytes());
    // A half-close goes through: the server reads 3 bytes and FIN, and its own end comes back.
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(within("the server", heard.recv()).await, Some(Ok(3)));
    let connection = proxy.connection(0).await.unwrap();
    assert_eq!(within("the end", connection.ended()).await, End::Closed);
    assert_eq!(connection.to_client.passed(), 40_000);
    assert_eq!(connection.to_server.passed(), 8);
}

/// A client sees exactly the bytes that were asked for, then FIN or RST; the server sees the same kind of end.
#[tokio::test]
async fn cuts_at_the_byte_with_fin_or_rst() {
    let (server, mut heard) = server().await;
    for (cut, seen, by_server) in [
        (Cut::Fin, Ok(12_345), Ok(0)),
        (
            Cut::Reset,
            Err(ErrorKind::ConnectionReset),
            Err(ErrorKind::ConnectionReset),
        ),
    ] {
        let proxy = chaos(server, 2, move |_| faulty(12_345, Fault::Cut(cut))).await;
        let (read, end) = read(hello(proxy.addr()).await).await;
        assert_eq!(read, bytes()[..12_345], "{cut:?}");
        assert_eq!(end, seen);
        let connection = proxy.connection(0).await.unwrap();
        assert_eq!(connection.ended().await, End::Cut(cut));
        assert_eq!(connection.to_client.passed(), 12_345);
        assert_eq!(within("the server", heard.recv()).await, Some(by_server));
    }
}

/// FIN stays FIN also where the client has sent what nobody reads, which would turn a plain close into RST.
#[tokio::test]
async fn a_cut_with_fin_is_no_rst_for_a_client_that_goes_on_writing() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let proxy = chaos(listener.local_addr().unwrap(), 3, |_| Plan::default()).await;
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (_server, _) = within("the proxy", listener.accept()).await.unwrap();
    let connection = proxy.connection(0).await.unwrap();
    connection.to_server.stall();
    client.write_all(&bytes()).await.unwrap();
    connection.cut(Cut::Fin);
    assert_eq!(connection.ended().await, End::Cut(Cut::Fin));
    client.write_all(b"more").await.unwrap();
    assert_eq!(read(client).await, (Vec::new(), Ok(0)));
}

#[tokio::test]
async fn a_stall_holds_back_one_direction_and_loses_nothing() {
    let (server, mut heard) = server().await;
    let proxy = chaos(server, 4, |_| faulty(1_000, Fault::Stall)).await;
    let mut client = hello(proxy.addr()).await;
    let mut read = vec![0; 1_000];
    within("what comes before", client.read_exact(&mut read))
        .await
        .unwrap();
    let connection = proxy.connection(0).await.unwrap();
    eventually("the stall", || connection.to_client.is_stalled()).await;
    // The other direction goes on.
    client.write_all(b"bye").await.unwrap();
    within("the other direction", connection.to_server.until_passed(8)).await;
    assert_eq!(connection.to_client.passed(), 1_000);
    assert_eq!(connection.end(), None);
    // Nor does the end of a stalled direction pass.
    connection.to_server.stall();
    client.shutdown().await.unwrap();
    connection.to_client.go_on();
    read.resize(40_000, 0);
    within("the rest", client.read_exact(&mut read[1_000..]))
        .await
        .unwrap();
    assert_eq!(read, bytes());
    assert!(heard.try_recv().is_err());
    connection.to_server.go_on();
    assert_eq!(within("the server", heard.recv()).await, Some(Ok(3)));
}

#[tokio::test]
async fn refuses_and_accepts_again_on_the_same_port() {
    let (server, _heard) = server().await;
    let proxy = chaos(server, 5, |_| Plan::default()).await;
    let mut open = hello(proxy.addr()).await;
    // One that the proxy has not accepted yet would be reset with the listener.
    proxy.connection(0).await.unwrap();
    for _ in 0..3 {
        proxy.refuse(true).await;
        let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        proxy.refuse(false).await;
        drop(hello(proxy.addr()).await);
    }
    // The one that was open has not noticed.
    let mut read = vec![0; 40_000];
    within("all bytes", open.read_exact(&mut read))
        .await
        .unwrap();
    // The port is nobody else's, not even of another such proxy.
    let second = ChaosProxy::start(proxy.addr(), server, 5, 8, |_| Plan::default()).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn passes_a_reset_on_and_says_what_it_cannot_reach() {
    let (server, mut heard) = server().await;
    let proxy = chaos(server, 6, |_| Plan::default()).await;
    let client = hello(proxy.addr()).await;
    let connection = proxy.connection(0).await.unwrap();
    within("the answer", connection.to_client.until_passed(40_000)).await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(within("the end", connection.ended()).await, End::Reset);
    assert_eq!(
        within("the server", heard.recv()).await,
        Some(Err(ErrorKind::ConnectionReset))
    );

    let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    let proxy = chaos(nobody, 6, |_| Plan::default()).await;
    let client = hello(proxy.addr()).await;
    assert_eq!(read(client).await.1, Err(ErrorKind::ConnectionReset));
    let connection = proxy.connection(0).await.unwrap();
    assert_eq!(connection.ended().await, End::Unreachable);
}

#[tokio::test]
async fn is_bounded_and_ends_everything_when_it_is_dropped() {
    let (server, _heard) = server().await;
    let listen = ([127, 0, 0, 1], 0).into();
    let proxy = ChaosProxy::start(listen, server, 7, 2, |_| Plan::default());
    let proxy = proxy.await.unwrap();
    let mut two = [hello(proxy.addr()).await, hello(proxy.addr()).await];
    let mut read_all = vec![0; 40_000];
    for client in &mut two {
        within("an answer", client.read_exact(&mut read_all))
            .await
            .unwrap();
    }
    let third = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(read(third).await.1, Err(ErrorKind::ConnectionReset));
    assert_eq!(proxy.connections().len(), 2);
    drop(proxy);
    for client in two {
        assert_eq!(read(client).await.0, b"");
    }
}

/// Sizes of the pieces in which `flow` passes on [`bytes`], and how long that takes; no socket, no real time.
async fn pieces(flow: Flow, seed: u64) -> (Vec<usize>, Duration) {
    let begin = Instant::now();
    let (mut source, from) = duplex(1 << 20);
    source.write_all(&bytes()).await.unwrap();
    drop(source);
    let (to, mut reader) = duplex(1 << 20);
    let pumped: JoinHandle<_> = tokio::spawn(async move {
        let lane = Lane::default();
        let end = pump(from, to, &flow, seed, &lane).await;
        (end, lane.passed())
    });
    let (mut sizes, mut all) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer).await.unwrap() {
            0 => break,
            n => {
                sizes.push(n);
                all.extend_from_slice(&buffer[..n]);
            }
        }
    }
    assert_eq!(all, bytes());
    assert_eq!(pumped.await.unwrap(), (Ok(()), 40_000));
    (sizes, begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn pieces_depend_on_the_seed_alone() {
    let flow = Flow {
        split: Some(3..=200),
        ..Flow::default()
    };
    let slow = Flow {
        delay: Some(Duration::from_millis(1)..=Duration::from_millis(9)),
        ..flow.clone()
    };
    let (sizes, _) = pieces(flow.clone(), 1).await;
    let last = sizes.len() - 1;
    assert!(
        sizes[..last].iter().all(|size| (3..=200).contains(size)),
        "{sizes:?}"
    );
    assert!(
        sizes.contains(&3) && sizes.contains(&200),
        "both bounds occur: {sizes:?}"
    );
    assert_eq!(pieces(flow.clone(), 1).await.0, sizes);
    assert_ne!(pieces(flow, 2).await.0, sizes);
    let (_, took) = pieces(slow, 1).await;
    let most = Duration::from_millis(9) * (sizes.len() + 1) as u32;
    assert!(took > most / 3 && took < most, "{took:?} of {most:?}");
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_kept() {
    let flow = Flow {
        rate: NonZeroU32::new(4_000),
        ..Flow::default()
    };
    let (sizes, took) = pieces(flow, 1).await;
    assert!(sizes.iter().all(|size| *size <= 200), "{sizes:?}");
    let expected = Duration::from_secs(10);
    assert!(
        took.abs_diff(expected) < Duration::from_millis(200),
        "{took:?}"
    );
}

#[tokio::test]
async fn the_program_says_its_address_and_does_what_its_options_say() {
    let (server, _heard) = server().await;
    let upstream = server.to_string();
    let args = |more: &str| {
        let all = format!("chaos_proxy --upstream {upstream} {more}");
        command::Args::try_parse_from(all.split_whitespace())
    };
    let (say, said) = tokio::sync::oneshot::channel();
    let running = args("--split 1..700 --cut-after 9999 --reset --first 1 --seed 4").unwrap();
    let task = tokio::spawn(command::run(running, |addr| say.send(addr).unwrap()));
    let addr = within("the address", said).await.unwrap();
    let (first, end) = read(hello(addr).await).await;
    assert_eq!((first.len(), end), (9_999, Err(ErrorKind::ConnectionReset)));
    let mut second = hello(addr).await;
    let mut all = vec![0; 40_000];
    within("all bytes", second.read_exact(&mut all))
        .await
        .unwrap();
    task.abort();

    for (wrong, said) in [
        ("--split 7..1", "7 is more than 1"),
        ("--split x", r#""x" is no number"#),
        ("--reset", "--cut-after"),
        ("--cut-after 1 --stall-after 1", "cannot be used with"),
        ("--rate 0", "zero"),
    ] {
        let error = args(wrong).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let nowhere = ["chaos_proxy", "--upstream", "localhost"];
    let nowhere = command::Args::try_parse_from(nowhere).unwrap();
    let error = command::run(nowhere, |_| ()).await.unwrap_err();
    assert!(error.starts_with("--upstream localhost: "), "{error}");
    let help = command::Args::command().render_long_help().to_string();
    assert!(help.contains("--upstream") && help.contains("MIN..MAX"));
}
