//! The checks of `stream-probe ws`.

mod access;
mod frame;
mod http2;
mod load;
mod protocol;

use std::time::{Duration, Instant};

use crate::http1::Request;
use crate::target::{Target, Unreachable};
use crate::{Options, Run, leak, process};
use frame::{CLOSE, Next, PING, PONG, Socket, TEXT, Upgrade, Waited};

/// How long the probe waits for what must come, before it calls it missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all checks of one run share.
struct Probe<'a> {
    options: &'a Options,
    run: &'a Run,
    target: Target,
    /// The handshake of a client that the service accepts.
    request: Request,
    /// What the service said in messages and close reasons.
    heard: std::sync::Mutex<String>,
}

pub(crate) async fn probe(options: &Options, run: &Run) -> Result<(), Unreachable> {
    let mut request = frame::upgrade(options.request("*/*").without("Accept"));
    request.method = "GET".to_owned();
    request.body = None;
    if !options.subprotocols.is_empty() {
        request = request.header("Sec-WebSocket-Protocol", options.subprotocols.join(", "));
    }
    let probe = Probe {
        options,
        run,
        target: options.target.clone(),
        request,
        heard: std::sync::Mutex::default(),
    };
    let first = frame::connect(&probe.request, &probe.target, run.at_most(PATIENCE * 2)).await?;
    let Some(first) = probe.handshake(first).await else {
        return Ok(());
    };
    let rest = async {
        probe.protocol(first).await;
        if !probe.violations().await {
            probe.give_up("the service is gone after a violation");
            return;
        }
        probe.access().await;
        probe.load().await;
    };
    tokio::join!(probe.silent_peer(), async {
        drop(tokio::time::timeout(run.left(), rest).await)
    });
    probe.errors_clean();
    probe.shutdown().await;
    Ok(())
}

impl Probe<'_> {
    async fn handshake(&self, first: Upgrade) -> Option<Box<Socket>> {
        const ID: &str = "ws-handshake";
        let run = self.run;
        let socket = match first {
            Upgrade::Open(socket) => socket,
            Upgrade::Refused(mut response) => {
                let status = response.head.status;
                let body = response.text(run.at_most(Duration::from_secs(2))).await;
                run.fail(
                    ID,
                    format!(
                        "status {status} instead of 101: {}",
                        crate::report::quote(body.as_bytes())
                    ),
                );
                crate::sse::judge_error(run, "ws-errors-clean", status, &body);
                self.give_up(&format!("the handshake was answered with {status}"));
                return None;
            }
            Upgrade::Closed => {
                run.fail(ID, "the connection ended without an HTTP response");
                self.give_up("the handshake was not answered");
                return None;
            }
            Upgrade::Silent => {
                run.fail(ID, "no answer to the handshake");
                self.give_up("the handshake was not answered");
                return None;
            }
        };
        let head = &socket.head;
        let chosen = head.get("sec-websocket-protocol");
        let wrong = if !head
            .get("upgrade")
            .is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
        {
            Some("no Upgrade: websocket".to_owned())
        } else if !head.has("connection", "upgrade") {
            Some("no Connection: Upgrade".to_owned())
        } else if head.get("sec-websocket-accept") != Some(frame::accept()) {
            Some(format!(
                "Sec-WebSocket-Accept is {:?}, not {}",
                head.get("sec-websocket-accept"),
                frame::accept()
            ))
        } else if let Some(extensions) = head
            .get("sec-websocket-extensions")
            .filter(|v| !v.is_empty())
        {
            Some(format!("extension {extensions} was not offered"))
        } else if self.options.subprotocols.is_empty() && chosen.is_some() {
            chosen
                .clone()
                .map(|name| format!("subprotocol {name} was not offered"))
        } else {
            None
        };
        match wrong {
            Some(wrong) => run.fail(ID, wrong),
            None => run.pass(ID, format!("101 after {} ms", head.after.as_millis())),
        }
        let offered = &self.options.subprotocols;
        let id = "ws-subprotocol-selected";
        match chosen {
            _ if offered.is_empty() => run.unknown(id, "no --subprotocol was given"),
            Some(name) if offered.contains(&name) => {
                run.pass(id, format!("{name} of {}", offered.join(", ")))
            }
            Some(name) => run.fail(id, format!("{name} was not among {}", offered.join(", "))),
            None => run.fail(
                id,
                format!(
                    "none of {} was selected: a browser fails the connection",
                    offered.join(", ")
                ),
            ),
        }
        Some(socket)
    }

    fn give_up(&self, why: &str) {
        for check in crate::checks::CHECKS {
            if check.kind == crate::Kind::Ws {
                self.run.unknown(check.id, why);
            }
        }
    }

    /// One more connection, ready for use; `Err` says why there is none.
    async fn open(&self) -> Result<Box<Socket>, String> {
        let upgrade = frame::connect(&self.request, &self.target, self.run.at_most(PATIENCE)).await;
        match upgrade {
            Ok(Upgrade::Open(mut socket)) => {
                self.greet(&mut socket).await;
                Ok(socket)
            }
            Ok(Upgrade::Refused(mut response)) => {
                let status = response.head.status;
                self.hear(
                    &response
                        .text(self.run.at_most(Duration::from_secs(1)))
                        .await,
                );
                Err(format!("one more connection was answered with {status}"))
            }
            Ok(Upgrade::Closed) => Err("one more connection was closed".to_owned()),
            Ok(Upgrade::Silent) => Err("one more connection was not answered".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the service wants to hear first.
    async fn greet(&self, socket: &mut Socket) {
        if let Some(hello) = &self.options.hello {
            socket.send(TEXT, hello.as_bytes()).await;
        }
    }

    fn hear(&self, text: &str) {
        let mut heard = self
            .heard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if heard.len() < 256 * 1024 {
            heard.push_str(text);
            heard.push('\n');
        }
    }

    fn errors_clean(&self) {
        const ID: &str = "ws-errors-clean";
        let heard = self
            .heard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match leak::find(&heard) {
            Some(sign) => self.run.fail(
                ID,
                format!(
                    "the service said: {}",
                    crate::report::quote(sign.as_bytes())
                ),
            ),
            None => self.run.pass(
                ID,
                format!(
                    "{} bytes of error bodies, messages and close reasons",
                    heard.len()
                ),
            ),
        }
    }

    /// A connection that says nothing and answers nothing.
    async fn silent_peer(&self) {
        const HEARTBEAT: &str = "ws-heartbeat";
        const DROPPED: &str = "ws-silent-peer-dropped";
        if !self.run.needs(&[HEARTBEAT, DROPPED]) {
            return;
        }
        let mut socket = match self.open().await {
            Ok(socket) => socket,
            Err(why) => {
                self.run.unknown(HEARTBEAT, why.as_str());
                return self.run.unknown(DROPPED, why);
            }
        };
        socket.answers = false;
        let began = Instant::now();
        let most = self
            .options
            .heartbeat
            .unwrap_or(Duration::from_secs(55))
            .mul_f64(1.1);
        let idle = self
            .options
            .idle
            .map(|idle| idle.mul_f64(1.1) + Duration::from_secs(1));
        let mut last = began;
        loop {
            // Only a named idle time, or the heartbeat, is worth waiting for to the end.
            let until_idle = idle.map(|idle| idle.saturating_sub(began.elapsed()));
            let until_beat =
                (!self.run.decided(HEARTBEAT)).then(|| most.saturating_sub(last.elapsed()));
            let pause = [until_idle, until_beat]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(Duration::MAX);
            let next = tokio::time::timeout(self.run.at_most(pause), socket.next()).await;
            let after = began.elapsed().as_secs_f64();
            if self.run.left().is_zero() && matches!(next, Ok(Next::Frame(_))) {
                let why = "the service never stops sending";
                self.run.unknown(HEARTBEAT, why);
                return self.run.unknown(DROPPED, why);
            }
            match next {
                Ok(Next::Frame(frame)) if frame.opcode == CLOSE => {
                    self.hear(&socket.heard);
                    self.run.pass(
                        DROPPED,
                        format!("Close {} after {after:.1} s of silence", frame.close_code()),
                    );
                    return self
                        .run
                        .unknown(HEARTBEAT, "the service closed the silent connection first");
                }
                Ok(Next::Frame(frame)) => {
                    last = Instant::now();
                    let beat = frame.opcode == PING
                        || (frame.opcode == TEXT && is_heartbeat(&frame.payload));
                    if beat {
                        self.run.pass(
                            HEARTBEAT,
                            format!("a heartbeat (opcode {}) after {after:.1} s", frame.opcode),
                        );
                    }
                }
                Ok(Next::Eof | Next::Reset) => {
                    self.run
                        .pass(DROPPED, format!("dropped after {after:.1} s of silence"));
                    return self
                        .run
                        .unknown(HEARTBEAT, "the service dropped the silent connection first");
                }
                Err(_) => {
                    if last.elapsed() >= most {
                        self.run.fail(
                            HEARTBEAT,
                            format!("no frame for {:.1} s", last.elapsed().as_secs_f64()),
                        );
                    }
                    if idle.is_some_and(|idle| began.elapsed() >= idle) {
                        return self.run.fail(
                            DROPPED,
                            format!("still open after {after:.1} s in which it answered nothing"),
                        );
                    }
                    if self.run.left().is_zero() {
                        self.run.unknown(HEARTBEAT, format!("silent for {after:.1} s, which may be within its interval (--heartbeat, --budget)"));
                        return self.run.unknown(DROPPED, format!("still open after {after:.1} s, which may be within its idle time (--idle, --budget)"));
                    }
                }
            }
        }
    }

    /// SIGTERM to the service, where that is allowed.
    async fn shutdown(&self) {
        const ID: &str = "ws-shutdown-1001";
        if !self.run.wants(ID) {
            return;
        }
        let (Some(pid), true) = (self.options.pid, self.options.shutdown) else {
            return self
                .run
                .unknown(ID, "needs --pid and --shutdown, which stops the service");
        };
        // The budget may be used up, and this is the last thing there is to see.
        let upgrade = frame::connect(&self.request, &self.target, PATIENCE).await;
        let Ok(Upgrade::Open(mut socket)) = upgrade else {
            return self.run.unknown(ID, "one more connection was not possible");
        };
        self.greet(&mut socket).await;
        let began = Instant::now();
        if !process::terminate(pid).await {
            return self
                .run
                .unknown(ID, format!("SIGTERM to {pid} was not possible"));
        }
        let ended = socket.until(Duration::from_secs(10), |_| false).await;
        let after = began.elapsed().as_millis();
        match ended {
            Waited::Closed(code @ (1001 | 1012)) => self
                .run
                .pass(ID, format!("Close {code} {after} ms after SIGTERM")),
            Waited::Silent => self.run.fail(ID, "still open 10 s after SIGTERM"),
            other => self
                .run
                .fail(ID, format!("{after} ms after SIGTERM: {}", other.text())),
        }
    }
}

/// Engine.IO's `2`, or a message that names itself so.
fn is_heartbeat(payload: &[u8]) -> bool {
    let text = String::from_utf8_lossy(payload).to_ascii_lowercase();
    text == "2"
        || (text.len() < 200
            && ["ping", "heartbeat", "keepalive", "keep-alive"]
                .iter()
                .any(|w| text.contains(w)))
}

/// Whether a socket is alive: its Pong comes, or an answer to it.
async fn alive(socket: &mut Socket, patience: Duration) -> bool {
    matches!(socket.ping(b"stream-probe", patience).await, Waited::Found(frame) if frame.opcode == PONG)
}
