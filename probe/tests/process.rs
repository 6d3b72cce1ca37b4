//! What only the service's process shows (`--pid`): descriptors, memory, and what SIGTERM does. The
//! service is this very binary, started again with the name of one test.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use stream_probe::{Kind, Publish, Report};
use testkit::process::Process;

use crate::support::{assert_failed, assert_passed, probe, sse, ws};

pub fn start(service: &str) -> Process {
    Process::start("process::service", service)
}

/// The service that this process was started for.
#[test]
fn service() {
    let Some(name) = Process::service() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let sse_fault = match name.as_str() {
            "sse" => Some(sse::Fault::None),
            "sse unnoticed" => Some(sse::Fault::Unnoticed),
            "sse hoards" => Some(sse::Fault::Hoards),
            "sse cuts off" => Some(sse::Fault::CutsOff),
            _ => None,
        };
        if let Some(fault) = sse_fault {
            let service = sse::Service::start(fault).await;
            service.hub.size.store(256 * 1024, Ordering::Relaxed);
            println!("listening {}", service.addr);
            term.recv().await;
            service.hub.stop.send_replace(true);
        } else {
            let service = ws::Service::start(match name.as_str() {
                "ws unnoticed" => ws::Fault::Unnoticed,
                "ws cuts off" => ws::Fault::CutsOff,
                _ => ws::Fault::None,
            })
            .await;
            println!("listening {}", service.addr);
            term.recv().await;
            service.stop();
        }
        // Whoever started it ends it.
        std::future::pending::<()>().await;
    });
}

async fn sse_report(name: &str, only: &str) -> Report {
    let process = start(name);
    let mut options = crate::support::options(process.addr, "/events");
    options.pid = Some(process.child.id());
    options.shutdown = true;
    options.only = vec![only.to_owned()];
    let addr = process.addr;
    options.publish = Publish::Call(Arc::new(move |_| {
        let mut socket = std::net::TcpStream::connect(addr).unwrap();
        socket.write_all(b"POST /publish HTTP/1.1\r\n\r\n").unwrap();
        socket.read_exact(&mut [0; 12]).unwrap();
    }));
    probe(Kind::Sse, &options).await
}

async fn ws_report(name: &str, only: &str) -> Report {
    let process = start(name);
    let mut options = crate::support::options(process.addr, "/ws");
    options.cookie = Some(ws::COOKIE.to_owned());
    options.origin = Some(ws::ORIGIN.to_owned());
    options.pid = Some(process.child.id());
    options.shutdown = true;
    options.only = vec![only.to_owned()];
    probe(Kind::Ws, &options).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: run ./check"]
async fn disconnects_are_noticed_or_not() {
    const SSE: &str = "sse-disconnect-noticed";
    const WS: &str = "ws-disconnect-noticed";
    let (right, wrong, right_ws, wrong_ws) = tokio::join!(
        sse_report("sse", SSE),
        sse_report("sse unnoticed", SSE),
        ws_report("ws", WS),
        ws_report("ws unnoticed", WS),
    );
    assert_passed(&right, SSE);
    assert_failed(&wrong, &[SSE]);
    assert_passed(&right_ws, WS);
    assert_failed(&wrong_ws, &[WS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_grows_memory_or_not() {
    const ID: &str = "sse-stalled-reader-memory";
    let (right, wrong) = tokio::join!(sse_report("sse", ID), sse_report("sse hoards", ID));
    assert_passed(&right, ID);
    assert_failed(&wrong, &[ID]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_streams_or_not() {
    const SSE: &str = "sse-shutdown-ends-streams";
    const WS: &str = "ws-shutdown-1001";
    // One that stays open: the wrong twin `sse_shutdown_waits`.
    let (ends, cuts_off, closes, drops) = tokio::join!(
        sse_report("sse", SSE),
        sse_report("sse cuts off", SSE),
        ws_report("ws", WS),
        ws_report("ws cuts off", WS),
    );
    assert_passed(&ends, SSE);
    assert_failed(&cuts_off, &[SSE]);
    assert_passed(&closes, WS);
    assert_failed(&drops, &[WS]);
}
