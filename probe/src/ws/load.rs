//! Many messages, many connections, a reader that does not read.

use std::time::{Duration, Instant};

use super::frame::{self, BINARY, Frame, PING, Pumped, Socket, TEXT, Upgrade, Waited};
use super::http2::{self, Answer};
use super::{PATIENCE, Probe, alive};
use crate::process;

type Pumping = Result<Pumped, tokio::time::error::Elapsed>;

fn is_message(frame: &Frame) -> bool {
    matches!(frame.opcode, TEXT | BINARY)
}

impl Probe<'_> {
    pub(super) async fn load(&self) {
        self.http2().await;
        self.push().await;
        self.stalled_reader().await;
        self.flood().await;
        self.churn().await;
    }

    async fn http2(&self) {
        const ID: &str = "ws-http2-connect";
        if !self.run.needs(&[ID]) {
            return;
        }
        let answer = http2::extended_connect(
            &self.request,
            &self.target,
            self.run.at_most(Duration::from_secs(3)),
        )
        .await;
        match answer {
            Answer::NotOffered => self.run.pass(ID, "HTTP/2 is not offered here: browsers use HTTP/1.1"),
            Answer::NotAnnounced => self.run.pass(ID, "HTTP/2 without extended CONNECT: browsers use HTTP/1.1"),
            Answer::Status(200) => self.run.pass(ID, "extended CONNECT is answered with 200"),
            Answer::Status(status @ (404 | 405 | 501)) => self.run.fail(ID, format!("extended CONNECT is announced, and answered with {status}: the route takes GET only")),
            Answer::Status(status) => self.run.unknown(ID, format!("extended CONNECT is answered with {status}")),
            Answer::Reset(code) => self.run.fail(ID, format!("extended CONNECT is announced, and the stream reset with {code}")),
            Answer::Silent if self.run.left().is_zero() => {}
            Answer::Silent => self.run.fail(ID, "extended CONNECT is announced, and not answered within 3 s"),
        }
    }

    /// A message that the service has to say, to a connection that says nothing.
    async fn push(&self) {
        const ID: &str = "ws-one-writer";
        if !self.run.needs(&[ID]) {
            return;
        }
        if !self.options.publish.is_some() {
            let why = "needs --publish, which makes the service send to a silent connection";
            return self.run.unknown(ID, why);
        }
        let mut socket = match self.open().await {
            Ok(socket) => socket,
            Err(why) => return self.run.unknown(ID, why),
        };
        // Whatever greets a new connection, and no Pong that would wake the reader.
        socket.answers = false;
        let greeting = self.run.at_most(Duration::from_millis(300));
        socket.until(greeting, |_| false).await;
        if let Err(why) = self.options.publish.once().await {
            return self.run.unknown(ID, why);
        }
        let sent = Instant::now();
        let pushed = socket.until(self.run.at_most(PATIENCE), is_message).await;
        match pushed {
            Waited::Found(_) => self.run.pass(
                ID,
                format!("pushed {} ms after --publish", sent.elapsed().as_millis()),
            ),
            Waited::Silent if self.run.left().is_zero() => {}
            Waited::Silent => {
                socket.send(PING, b"wake").await;
                let woken = socket.until(self.run.at_most(PATIENCE), is_message).await;
                match woken {
                    Waited::Found(_) => self.run.fail(
                        ID,
                        format!("what was published came only when the client had sent a Ping {} s later", PATIENCE.as_secs()),
                    ),
                    _ => self.run.unknown(ID, "what is published does not reach this connection (--hello)"),
                }
            }
            ended => self.run.unknown(ID, ended.text()),
        }
    }

    /// One connection makes the service answer, and never reads; another must not notice.
    async fn stalled_reader(&self) {
        const ID: &str = "ws-stalled-reader-isolated";
        const QUEUE: &str = "ws-queue-bounded";
        if !self.run.needs(&[ID, QUEUE]) {
            return;
        }
        let unknown = |why: &str| {
            self.run.unknown(ID, why);
            self.run.unknown(QUEUE, why);
        };
        let mut other = match self.open().await {
            Ok(other) => other,
            Err(why) => return unknown(&why),
        };
        if !alive(&mut other, self.run.at_most(PATIENCE)).await {
            return unknown("the second connection does not answer Ping");
        }
        let pushes = self.run.passed("ws-one-writer") && self.reaches(&mut other).await;
        let request = frame::stalled(self.request.clone());
        let Ok(Upgrade::Open(mut stalled)) =
            frame::connect(&request, &self.target, self.run.at_most(PATIENCE)).await
        else {
            return unknown("one more connection was refused");
        };
        let before = self.options.pid.and_then(process::resident_kib);
        self.greet(&mut stalled).await;
        let mut unit = Vec::new();
        let message = self
            .options
            .message
            .clone()
            .unwrap_or_else(|| "stream-probe ".repeat(80));
        for _ in 0..32 {
            unit.extend(frame::encode(true, TEXT, message.as_bytes(), true));
            unit.extend(frame::encode(true, PING, &[b'p'; 100], true));
        }
        let limit = self.run.at_most(Duration::from_secs(8));
        let pumping = tokio::time::timeout(limit, stalled.pump(&unit, 16 << 20, false)).await;
        let how = match &pumping {
            Ok(pumped) => match &pumped.outcome {
                None => format!(
                    "the service stopped reading after {} KiB",
                    pumped.sent / 1024
                ),
                Some(Waited::Silent) => format!("{} KiB were sent", pumped.sent / 1024),
                Some(_) => format!("the service ended it after {} KiB", pumped.sent / 1024),
            },
            Err(_) => "it was still being sent to".to_owned(),
        };
        // Broadcasts reach the stalled one too.
        for _ in 0..8 {
            if self.options.publish.is_some() {
                drop(self.options.publish.once().await);
            }
        }
        let patience = self.run.at_most(PATIENCE);
        let beside = other.ping(b"beside", patience).await;
        let after = self.options.pid.and_then(process::resident_kib);
        let grown = before.zip(after).map(|(b, a)| a.saturating_sub(b));
        let mut stalled = Some(stalled);
        match beside {
            Waited::Found(_) if pushes && self.held_up(&mut other).await => {
                drop(stalled.take());
                if self.reaches(&mut other).await {
                    self.run.fail(ID, format!("beside a connection that reads nothing ({how}), what is published reached no other until the first was gone"));
                }
                self.run
                    .unknown(ID, "what is published does not arrive any more");
            }
            Waited::Found(_) => self.run.pass(
                ID,
                format!(
                    "beside a connection that reads nothing ({how}), another {}",
                    if pushes {
                        "is sent what is published"
                    } else {
                        "answers Ping"
                    }
                ),
            ),
            Waited::Silent if patience < PATIENCE => {}
            Waited::Silent => {
                drop(stalled.take());
                let again = other.ping(b"again", self.run.at_most(PATIENCE)).await;
                match again {
                    // A Close counts too: it had been waiting behind the first connection.
                    Waited::Found(_) | Waited::Closed(_) => self.run.fail(ID, format!("beside a connection that reads nothing ({how}), another had no Pong for {} s, until the first was gone", PATIENCE.as_secs())),
                    _ => self.run.unknown(ID, format!("another connection stopped answering ({how}), and did not begin again")),
                }
            }
            ended => self
                .run
                .unknown(ID, format!("the other connection: {}", ended.text())),
        }
        match stalled {
            Some(stalled) => self.queue(grown, &pumping, *stalled).await,
            None => self.run.unknown(QUEUE, "the others were held up"),
        }
    }

    /// What a connection that read nothing has cost the service's process: memory, for messages that it is still owed.
    /// `grown` is in KiB.
    async fn queue(&self, grown: Option<u64>, pumping: &Pumping, mut stalled: Socket) {
        const ID: &str = "ws-queue-bounded";
        let Some(grown) = grown else {
            return self.run.unknown(ID, "needs --pid");
        };
        let kib = match pumping {
            // It stopped reading, or ended the connection: both are bounds.
            Ok(Pumped { sent, outcome }) if !matches!(outcome, Some(Waited::Silent)) => {
                let text = format!("after {} KiB the service took no more", sent / 1024);
                return self.run.pass(ID, text);
            }
            Ok(pumped) => pumped.sent as u64 / 1024,
            Err(_) => {
                return self
                    .run
                    .unknown(ID, "the service was still taking what was sent");
            }
        };
        let text = format!(
            "resident memory grew by {grown} KiB while {kib} KiB were sent by a connection that reads nothing"
        );
        // Half of what was sent is far more than any fixed buffer in this volume.
        if grown <= kib / 2 {
            return self.run.pass(ID, text);
        }
        // Garbage counts as resident too: a queue is what arrives when the connection reads again.
        let mut owed = 0;
        let enough = |frame: &Frame| {
            owed += frame.payload.len() as u64 / 1024;
            owed > kib / 2
        };
        stalled.until(self.run.at_most(PATIENCE), enough).await;
        if owed > kib / 2 {
            self.run.fail(
                ID,
                format!("{text}, and more than {owed} KiB lay ready for it"),
            );
        } else {
            self.run.pass(
                ID,
                format!("{text}, but no more than {owed} KiB lay ready for it"),
            );
        }
    }

    /// Whether what is published arrives on a connection.
    async fn reaches(&self, socket: &mut Socket) -> bool {
        let published = self.options.publish.once().await.is_ok();
        let arrived = socket.until(self.run.at_most(PATIENCE), is_message).await;
        published && matches!(arrived, Waited::Found(_))
    }

    /// Whether nothing that is published arrives, once what was on its way has.
    async fn held_up(&self, socket: &mut Socket) -> bool {
        let quiet = Duration::from_millis(500);
        let most = Instant::now() + PATIENCE;
        while Instant::now() < most {
            match socket.until(self.run.at_most(quiet), is_message).await {
                Waited::Found(_) => {}
                Waited::Silent => return !self.reaches(socket).await && !self.run.left().is_zero(),
                _ => return false,
            }
        }
        false
    }

    /// Five thousand messages at once.
    async fn flood(&self) {
        const ID: &str = "ws-flood-limited";
        const COUNT: usize = 5000;
        if !self.run.needs(&[ID]) {
            return;
        }
        let mut socket = match self.open().await {
            Ok(socket) => socket,
            Err(why) => return self.run.unknown(ID, why),
        };
        let message = self.message();
        if let Some(why) = self.refuses(&mut socket, &message).await {
            return self.run.unknown(ID, why);
        }
        let before = socket.messages;
        let heard = socket.heard.len();
        let unit = frame::encode(true, TEXT, message.as_bytes(), true);
        let began = Instant::now();
        let limit = self.run.at_most(Duration::from_secs(8));
        let pumped =
            tokio::time::timeout(limit, socket.pump(&unit, unit.len() * COUNT, true)).await;
        let Ok(pumped) = pumped else {
            return self
                .run
                .pass(ID, "the service reads slower than the flood comes");
        };
        let sent = pumped.sent / unit.len();
        let ended = match pumped.outcome {
            None => {
                return self.run.pass(
                    ID,
                    format!("the service stopped reading after {sent} messages"),
                );
            }
            Some(Waited::Silent) => {
                socket
                    .ping(b"after the flood", self.run.at_most(PATIENCE))
                    .await
            }
            Some(ended) => ended,
        };
        self.hear(&socket.heard);
        let said = socket
            .heard
            .get(heard..)
            .unwrap_or_default()
            .to_ascii_lowercase();
        let limited = [
            "rate",
            "too many",
            "too fast",
            "limit",
            "429",
            "slow down",
            "flood",
        ]
        .iter()
        .any(|word| said.contains(word));
        match ended {
            Waited::Closed(code) => self.run.pass(ID, format!("Close {code} after at most {sent} messages")),
            Waited::Dropped => self.run.pass(ID, format!("dropped after at most {sent} messages")),
            Waited::Found(_) if limited => self.run.pass(ID, "the service answers that there were too many"),
            Waited::Found(_) => self.run.fail(ID, format!("{COUNT} messages in {} ms were all taken ({} messages came back)", began.elapsed().as_millis(), socket.messages - before)),
            Waited::Silent if self.run.left().is_zero() => {}
            Waited::Silent => self.run.pass(ID, format!("a Ping behind {COUNT} messages is not answered within {} s: the service takes them slowly", PATIENCE.as_secs())),
        }
    }

    /// Whether one message of the flood alone ends the connection.
    async fn refuses(&self, socket: &mut Socket, message: &str) -> Option<String> {
        socket.send(TEXT, message.as_bytes()).await;
        match socket.ping(b"one", self.run.at_most(PATIENCE)).await {
            Waited::Found(_) => None,
            other => Some(format!(
                "one message alone is answered so: {} (--message)",
                other.text()
            )),
        }
    }

    /// Connections that are cut without Close.
    async fn churn(&self) {
        const SURVIVED: &str = "ws-reconnects-survived";
        const NOTICED: &str = "ws-disconnect-noticed";
        if !self.run.needs(&[SURVIVED, NOTICED]) {
            return;
        }
        if self.options.connects == 0 {
            self.run.unknown(SURVIVED, "no churn: --connects 0");
            return self.run.unknown(NOTICED, "no churn: --connects 0");
        }
        let before = self.options.pid.and_then(process::open_files);
        let mut refused = 0;
        let mut left = self.options.connects;
        while left > 0 && !self.run.left().is_zero() {
            let batch = left.min(10);
            left -= batch;
            let mut connections = tokio::task::JoinSet::new();
            for _ in 0..batch {
                let (request, target) = (self.request.clone(), self.target.clone());
                let patience = self.run.at_most(PATIENCE);
                connections.spawn(async move { frame::connect(&request, &target, patience).await });
            }
            while let Some(joined) = connections.join_next().await {
                refused += usize::from(!matches!(joined, Ok(Ok(Upgrade::Open(_)))));
            }
        }
        if left > 0 {
            return;
        }
        let text = format!(
            "{} connections cut without Close ({refused} had been refused)",
            self.options.connects
        );
        match frame::connect(&self.request, &self.target, self.run.at_most(PATIENCE)).await {
            Ok(Upgrade::Open(_)) => self.run.pass(SURVIVED, format!("{text}, then 101")),
            Ok(Upgrade::Refused(response))
                if response.head.status < 500 || response.head.status == 503 =>
            {
                self.run
                    .pass(SURVIVED, format!("{text}, then {}", response.head.status));
            }
            _ if self.run.left().is_zero() => {}
            _ => self
                .run
                .fail(SURVIVED, format!("{text}, then no handshake")),
        }
        let (Some(pid), Some(before)) = (self.options.pid, before) else {
            return self.run.unknown(NOTICED, "needs --pid");
        };
        crate::sse::noticed(self.run, NOTICED, pid, before, PATIENCE * 2).await;
    }
}
