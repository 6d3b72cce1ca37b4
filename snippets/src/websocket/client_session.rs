//! One connection of [`super::client`]: joins and resumes, hands events over in order, publishes, and notices that it is dead.

// ANCHOR: client_session
use std::collections::HashMap;
use std::time::Duration;

use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_util::task::AbortOnDropHandle;

use super::pending::Pending;
use super::rooms::Cursor;

const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// What the application asks.
pub enum Command {
    /// Enter a room; after a reconnect it is entered again where the events left off.
    Join(String),
    /// Publish; the outcome comes as `Published` with the same `tag`.
    Publish {
        /// A room that has been joined.
        room: String,
        /// What.
        data: Value,
        /// Comes back with the outcome.
        tag: u64,
    },
    /// Try again now: the network is back.
    Wake,
}

/// What the application learns.
#[derive(Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Update {
    Connected,
    Disconnected,
    /// An event of a room, `message`, `user_joined` or `user_left`, as received.
    Event {
        room: String,
        seq: u64,
        event: Value,
    },
    /// Events are missing: load the room's state anew; events continue after `seq`.
    Reset {
        room: String,
        seq: u64,
    },
    /// The server dropped these, since this client was too slow.
    Gap {
        room: String,
        from: u64,
        to: u64,
    },
    /// Ok: the room's sequence number. Err: `queue_full`, `expired`, or the server's code.
    Published {
        tag: u64,
        outcome: Result<u64, String>,
    },
    /// The server refused a join.
    JoinRefused {
        room: String,
        code: String,
    },
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The server sent Close with this code (1005: without one).
    Closed(u16),
    /// The application dropped its end of a channel.
    ByApplication,
    /// The transport failed, the server fell silent, or the application did not take its updates.
    Lost,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Incoming {
    Joined {
        room: String,
        epoch: String,
        seq: u64,
        events: Vec<Value>,
    },
    Reset {
        room: String,
        epoch: String,
        seq: u64,
    },
    Gap {
        room: String,
        from: u64,
        to: u64,
    },
    Ack {
        id: String,
        seq: u64,
    },
    Error {
        code: String,
        id: Option<String>,
        room: Option<String>,
        retry_after_ms: Option<u64>,
    },
}

/// The connection is of no use any more.
struct Lost;

/// What outlives a connection: the rooms to be in and the messages that are not acknowledged.
pub struct Session {
    pending: Pending,
    updates: mpsc::Sender<Update>,
    heartbeat: Duration,
    /// With the last event that the application was given.
    rooms: HashMap<String, Option<Cursor>>,
    tags: HashMap<String, u64>,
    /// A message for which the queue was full; no command is taken until the application knows.
    refused: Option<u64>,
    /// Nothing is published before this, since the server asked for a pause.
    hold: Instant,
}

impl Session {
    /// No room yet. A ping goes out every `heartbeat`; after two without any frame the connection is lost.
    pub fn new(pending: Pending, updates: mpsc::Sender<Update>, heartbeat: Duration) -> Self {
        let hold = Instant::now();
        Self {
            pending,
            updates,
            heartbeat,
            rooms: HashMap::new(),
            tags: HashMap::new(),
            refused: None,
            hold,
        }
    }

    /// One connection, to its end. What belongs to it lives in here, so nothing of it can reach the next one.
    pub async fn run<S>(
        &mut self,
        socket: WebSocketStream<S>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sink, mut stream) = socket.split();
        let (outgoing, mut queue) = mpsc::channel::<Message>(64);
        // A task of its own, so that reading goes on while a large message is written, and the other way round.
        let _writer = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                let last = message.is_close();
                if sink.send(message).await.is_err() || last {
                    return;
                }
            }
        }));
        let end = self
            .exchange(&mut stream, &outgoing, commands)
            .await
            .unwrap_or(End::Lost);
        if end == End::ByApplication {
            let normal = CloseFrame {
                code: CloseCode::Normal,
                reason: "".into(),
            };
            let _ = outgoing.try_send(Message::Close(Some(normal)));
        }
        if end != End::Lost {
            // The closing handshake; the library answers the server's Close while the rest is read.
            let _ = timeout(CLOSE_DEADLINE, async {
                while let Some(Ok(_)) = stream.next().await {}
            })
            .await;
        }
        self.pending.send_again();
        match self.tell(Update::Disconnected).await {
            Ok(()) => end,
            Err(Lost) if self.updates.is_closed() => End::ByApplication,
            Err(Lost) => end,
        }
    }

    /// Lets `delay` pass. Commands are taken meanwhile, and messages expire. Returns false when the application is gone.
    pub async fn wait(&mut self, commands: &mut mpsc::Receiver<Command>, delay: Duration) -> bool {
        let mut over = std::pin::pin!(sleep(delay));
        loop {
            let _ = self.overdue().await;
            tokio::select! {
                () = &mut over => return true,
                () = self.updates.closed() => return false,
                command = commands.recv(), if self.refused.is_none() => match command {
                    None => return false,
                    Some(Command::Wake) => return true,
                    Some(command) => drop(self.accept(command)),
                },
            }
        }
    }

    async fn exchange<S>(
        &mut self,
        stream: &mut SplitStream<WebSocketStream<S>>,
        outgoing: &mpsc::Sender<Message>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<End, Lost>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.tell(Update::Connected).await?;
        for (room, cursor) in &self.rooms {
            join(outgoing, room, cursor.as_ref())?;
        }
        let every = self.heartbeat;
        let mut beat = interval_at(Instant::now() + every, every);
        let mut heard = Instant::now();
        loop {
            self.overdue().await?;
            while self.hold <= Instant::now()
                && let Some(message) = self.pending.next_unsent()
            {
                send(outgoing, &json!(message))?;
            }
            tokio::select! {
                frame = stream.next() => {
                    heard = Instant::now();
                    match frame {
                        Some(Ok(Message::Text(text))) => self.receive(&text).await?,
                        Some(Ok(Message::Close(frame))) => {
                            return Ok(End::Closed(frame.map_or(1005, |frame| frame.code.into())));
                        }
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Err(Lost),
                    }
                }
                command = commands.recv(), if self.refused.is_none() => match command {
                    Some(command) => {
                        if let Some(room) = self.accept(command) {
                            join(outgoing, &room, None)?;
                        }
                    }
                    None => return Ok(End::ByApplication),
                },
                () = sleep_until(self.hold), if self.hold > Instant::now() => {}
                _ = beat.tick() => {
                    if heard.elapsed() >= every * 2 {
                        return Err(Lost);
                    }
                    outgoing.try_send(Message::Ping("".into())).map_err(|_| Lost)?;
                }
            }
        }
    }

    async fn receive(&mut self, text: &str) -> Result<(), Lost> {
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            return Ok(());
        };
        match Incoming::deserialize(&value) {
            Ok(Incoming::Joined {
                room,
                epoch,
                seq,
                events,
            }) => {
                // A first join begins here; after a resume the replay moves the cursor on.
                self.rooms.insert(
                    room,
                    Some(Cursor {
                        epoch,
                        seq: seq.saturating_sub(events.len() as u64),
                    }),
                );
                for event in events {
                    self.deliver(event).await?;
                }
            }
            Ok(Incoming::Reset { room, epoch, seq }) => {
                // Told first: what the application was not told, the next connection finds out again.
                let reset = Update::Reset {
                    room: room.clone(),
                    seq,
                };
                self.tell(reset).await?;
                self.rooms.insert(room, Some(Cursor { epoch, seq }));
            }
            Ok(Incoming::Gap { room, from, to }) => {
                self.tell(Update::Gap { room, from, to }).await?
            }
            Ok(Incoming::Ack { id, seq }) => self.settle(&id, Ok(seq)).await?,
            Ok(Incoming::Error {
                retry_after_ms: Some(wait),
                ..
            }) => {
                self.hold = Instant::now() + Duration::from_millis(wait);
                self.pending.send_again();
            }
            Ok(Incoming::Error {
                code, id: Some(id), ..
            }) => self.settle(&id, Err(code)).await?,
            Ok(Incoming::Error {
                code,
                room: Some(room),
                ..
            }) => {
                let refused = Update::JoinRefused {
                    room: room.clone(),
                    code,
                };
                self.tell(refused).await?;
                self.rooms.remove(&room);
            }
            Ok(Incoming::Error { .. }) => {}
            // Events, and types that a newer server may send.
            Err(_) => self.deliver(value).await?,
        }
        Ok(())
    }

    async fn deliver(&mut self, event: Value) -> Result<(), Lost> {
        let (Some(room), Some(seq)) = (
            event["room"].as_str().map(str::to_owned),
            event["seq"].as_u64(),
        ) else {
            return Ok(());
        };
        match self.rooms.get_mut(&room) {
            Some(Some(cursor)) if seq > cursor.seq => {}
            _ => return Ok(()), // seen before, or of a room that was left
        }
        self.tell(Update::Event {
            room: room.clone(),
            seq,
            event,
        })
        .await?;
        if let Some(Some(cursor)) = self.rooms.get_mut(&room) {
            cursor.seq = seq; // only now: an event that was not handed over is asked for again
        }
        Ok(())
    }

    /// Hands over to the application. If that takes so long that the server would miss our pongs, the connection is given
    /// up; the next one resumes after the last event that was taken.
    async fn tell(&mut self, update: Update) -> Result<(), Lost> {
        self.updates
            .send_timeout(update, self.heartbeat)
            .await
            .map_err(|_| Lost)
    }

    /// Tells the outcome of a message, and only then forgets it.
    async fn settle(&mut self, id: &str, outcome: Result<u64, String>) -> Result<(), Lost> {
        if let Some(&tag) = self.tags.get(id) {
            self.tell(Update::Published { tag, outcome }).await?;
        }
        self.tags.remove(id);
        self.pending.settle(id);
        Ok(())
    }

    /// What is due whether connected or not.
    async fn overdue(&mut self) -> Result<(), Lost> {
        while let Some(id) = self.pending.expired() {
            self.settle(&id, Err("expired".into())).await?;
        }
        if let Some(tag) = self.refused {
            let outcome = Err("queue_full".into());
            self.tell(Update::Published { tag, outcome }).await?;
            self.refused = None;
        }
        Ok(())
    }

    /// Takes a command in, connected or not; returns a room that is to be joined.
    fn accept(&mut self, command: Command) -> Option<String> {
        match command {
            Command::Join(room) => {
                self.rooms.insert(room.clone(), None);
                return Some(room);
            }
            Command::Publish { room, data, tag } => match self.pending.push(room, data) {
                Some(id) => drop(self.tags.insert(id, tag)),
                None => self.refused = Some(tag),
            },
            Command::Wake => {}
        }
        None
    }
}

fn join(outgoing: &mpsc::Sender<Message>, room: &str, resume: Option<&Cursor>) -> Result<(), Lost> {
    send(
        outgoing,
        &json!({ "type": "join", "room": room, "resume": resume }),
    )
}

fn send(outgoing: &mpsc::Sender<Message>, value: &Value) -> Result<(), Lost> {
    // Full means that the peer does not read: joins and the window of `Pending` fit in.
    outgoing
        .try_send(Message::text(value.to_string()))
        .map_err(|_| Lost)
}
// ANCHOR_END: client_session
