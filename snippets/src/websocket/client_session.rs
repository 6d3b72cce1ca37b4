//! One connection of the rooms' client: it joins and resumes, delivers in order, publishes, and detects a dead
//! connection.
//!
//! Used by `client.rs`; needs `pending.rs`.

// ANCHOR: client_session
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_util::task::AbortOnDropHandle;

use super::pending::Pending;

const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// What the application wants.
pub enum Command {
    /// Enter a room; after a reconnect it is entered again where the events left off.
    Join(String),
    /// Leave it.
    Leave(String),
    /// Publish; the outcome comes as `Published` with the same `tag`. It waits until the room is joined.
    Publish {
        /// A room that has been joined.
        room: String,
        /// What.
        data: Value,
        /// Returned with the outcome.
        tag: u64,
    },
    /// Try again now: the network is back.
    Wake,
}

/// What the application receives.
#[derive(Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Update {
    Connected,
    Disconnected,
    /// The first join of a room: load its state, which must contain the event `seq`; events continue after it.
    Joined {
        room: String,
        seq: u64,
    },
    /// An event of a room, as received.
    Event {
        room: String,
        seq: u64,
        event: Value,
    },
    /// Who is there now: the number of users, and the names of some.
    Presence {
        room: String,
        count: u64,
        users: Vec<String>,
    },
    /// Events are missing: load the room's state again; events continue after `seq`.
    Reset {
        room: String,
        seq: u64,
    },
    /// Ok: the room's sequence number. Err: `queue_full`, `expired`, or the server's code.
    Published {
        tag: u64,
        outcome: Result<u64, String>,
    },
    /// The server refused a join; the room is not joined again unless the application asks.
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
    Joined(Answer),
    Reset(Answer),
    Gap {
        room: String,
    },
    Presence {
        room: String,
        count: u64,
        users: Vec<String>,
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

#[derive(Deserialize)]
struct Answer {
    room: String,
    epoch: String,
    seq: u64,
    count: u64,
    users: Vec<String>,
}

/// The connection is of no use any more.
struct Lost;

/// What outlives a connection: the rooms to be in and the messages that are not acknowledged.
pub struct Session {
    pending: Pending,
    updates: mpsc::Sender<Update>,
    heartbeat: Duration,
    rooms: BTreeMap<String, Room>,
    /// Rooms to leave.
    leaves: VecDeque<String>,
    tags: HashMap<String, u64>,
    /// A message for which the queue was full; no command is taken until the application knows.
    refused: Option<u64>,
    /// Nothing is sent before this, since the server asked for a pause.
    hold: Instant,
    /// After a refusal, the time between two messages, until nothing waits any more.
    pace: Option<Duration>,
}

#[derive(Default)]
struct Room {
    /// The last event that was delivered.
    /// Epoch and sequence number of the last event.
    cursor: Option<(String, u64)>,
    join: Join,
}

/// How far the join on the current connection is. Events of a room count only once it is `Done`: those before it are from
/// before a gap.
#[derive(Default, PartialEq)]
enum Join {
    #[default]
    ToSend,
    Sent,
    Done,
}

impl Session {
    /// No room yet. A ping goes out every `heartbeat`; after two without any frame the connection is lost.
    pub fn new(pending: Pending, updates: mpsc::Sender<Update>, heartbeat: Duration) -> Self {
        Self {
            pending,
            updates,
            heartbeat,
            rooms: BTreeMap::new(),
            leaves: VecDeque::new(),
            tags: HashMap::new(),
            refused: None,
            hold: Instant::now(),
            pace: None,
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
        // A task of its own, so that reading continues while a large message is written, and the other way round.
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

    /// Awaits `future`. Commands are taken meanwhile, and messages expire. `None`: the application has stopped.
    pub async fn meanwhile<T>(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = std::pin::pin!(future);
        loop {
            let _ = self.overdue().await;
            tokio::select! {
                done = &mut future => return Some(done),
                () = self.updates.closed() => return None,
                command = commands.recv(), if self.refused.is_none() => self.accept(command?),
            }
        }
    }

    /// Lets `delay` pass, or at least `least` if the application wakes it. Returns false if the application has stopped.
    pub async fn wait(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        least: Duration,
        delay: Duration,
    ) -> bool {
        let begun = Instant::now();
        let mut until = begun + delay;
        loop {
            let _ = self.overdue().await;
            tokio::select! {
                () = sleep_until(until) => return true,
                () = self.updates.closed() => return false,
                command = commands.recv(), if self.refused.is_none() => match command {
                    None => return false,
                    Some(Command::Wake) => until = until.min(begun + least),
                    Some(command) => self.accept(command),
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
        self.leaves.clear();
        for room in self.rooms.values_mut() {
            room.join = Join::ToSend;
        }
        let every = self.heartbeat;
        let mut beat = interval_at(Instant::now() + every, every);
        let mut heard = Instant::now();
        loop {
            self.overdue().await?;
            let work = self.has_work();
            let held = self.hold > Instant::now();
            if !work {
                self.pace = None;
            }
            tokio::select! {
                // Waits while the writer does: nothing is queued beyond the channel.
                permit = outgoing.reserve(), if work && !held => {
                    let permit = permit.map_err(|_| Lost)?;
                    if let Some(message) = self.next_message() {
                        permit.send(Message::text(message.to_string()));
                    }
                    self.hold = Instant::now() + self.pace.unwrap_or_default();
                }
                () = sleep_until(self.hold), if work && held => {}
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
                    Some(command) => self.accept(command),
                    None => return Ok(End::ByApplication),
                },
                _ = beat.tick() => {
                    if heard.elapsed() >= every * 2 {
                        return Err(Lost);
                    }
                    let _ = outgoing.try_send(Message::Ping("".into())); // full: other frames are on their way
                }
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.leaves.is_empty()
            || self.rooms.values().any(|room| room.join == Join::ToSend)
            || self.pending.has_unsent(|room| is_ready(&self.rooms, room))
    }

    /// Joins come first: only a member may publish.
    fn next_message(&mut self) -> Option<Value> {
        if let Some(room) = self.leaves.pop_front() {
            return Some(json!({ "type": "leave", "room": room }));
        }
        let mut rooms = self.rooms.iter_mut();
        if let Some((name, room)) = rooms.find(|(_, room)| room.join == Join::ToSend) {
            room.join = Join::Sent;
            let cursor = room.cursor.as_ref();
            let resume = cursor.map(|(epoch, seq)| json!({ "epoch": epoch, "seq": seq }));
            return Some(json!({ "type": "join", "room": name, "resume": resume }));
        }
        let Self { rooms, pending, .. } = self;
        let message = pending.next_unsent(|room| is_ready(rooms, room))?;
        Some(json!(message))
    }

    async fn receive(&mut self, text: &str) -> Result<(), Lost> {
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            return Ok(());
        };
        match Incoming::deserialize(&value) {
            Ok(Incoming::Joined(answer)) => self.joined(answer, false).await?,
            Ok(Incoming::Reset(answer)) => self.joined(answer, true).await?,
            // Joining again with the cursor fills it, or the answer is `reset`.
            Ok(Incoming::Gap { room }) => {
                if let Some(room) = self.rooms.get_mut(&room) {
                    room.join = Join::ToSend;
                }
            }
            Ok(Incoming::Presence { room, count, users }) => {
                if self.rooms.contains_key(&room) {
                    self.tell(Update::Presence { room, count, users }).await?;
                }
            }
            Ok(Incoming::Ack { id, seq }) => self.settle(&id, Ok(seq)).await?,
            Ok(Incoming::Error {
                id,
                room,
                retry_after_ms: Some(wait),
                ..
            }) => self.refused_for_now(id, room, Duration::from_millis(wait)),
            Ok(Incoming::Error {
                code, id: Some(id), ..
            }) => self.settle(&id, Err(code)).await?,
            Ok(Incoming::Error {
                code,
                room: Some(room),
                ..
            }) => {
                if self.rooms.remove(&room).is_some() {
                    self.tell(Update::JoinRefused { room, code }).await?;
                }
            }
            Ok(Incoming::Error { .. }) => {}
            // Events, and types that a newer server may send.
            Err(_) => self.deliver(value).await?,
        }
        Ok(())
    }

    async fn joined(&mut self, answer: Answer, reset: bool) -> Result<(), Lost> {
        let Answer {
            room,
            epoch,
            seq,
            count,
            users,
        } = answer;
        let Some(joined) = self.rooms.get(&room) else {
            return Ok(()); // left meanwhile
        };
        let first = joined.cursor.is_none();
        // Told first: what the application was not told, the next connection finds out again.
        let name = room.clone();
        match (reset, first) {
            (true, _) => self.tell(Update::Reset { room: name, seq }).await?,
            (false, true) => self.tell(Update::Joined { room: name, seq }).await?,
            (false, false) => {}
        }
        let name = room.clone();
        let presence = Update::Presence {
            room: name,
            count,
            users,
        };
        self.tell(presence).await?;
        if let Some(joined) = self.rooms.get_mut(&room) {
            if reset || first {
                joined.cursor = Some((epoch, seq));
            }
            joined.join = Join::Done;
        }
        Ok(())
    }

    /// The server has done nothing: the same message goes out later, and the others one by one.
    fn refused_for_now(&mut self, id: Option<String>, room: Option<String>, wait: Duration) {
        match (id, room) {
            (Some(id), _) => self.pending.unsend(&id),
            (None, Some(room)) => match self.rooms.get_mut(&room) {
                Some(room) => room.join = Join::ToSend,
                None => self.leaves.push_back(room),
            },
            (None, None) => {}
        }
        self.hold = self.hold.max(Instant::now() + wait);
        self.pace = Some(wait);
    }

    async fn deliver(&mut self, event: Value) -> Result<(), Lost> {
        let (Some(room), Some(seq)) = (
            event["room"].as_str().map(str::to_owned),
            event["seq"].as_u64(),
        ) else {
            return Ok(());
        };
        match self.rooms.get(&room) {
            Some(Room {
                cursor: Some((_, last)),
                join: Join::Done,
            }) if seq > *last => {}
            _ => return Ok(()), // delivered before, after a gap that is being filled, or of a room that was left
        }
        self.tell(Update::Event {
            room: room.clone(),
            seq,
            event,
        })
        .await?;
        if let Some(cursor) = self
            .rooms
            .get_mut(&room)
            .and_then(|room| room.cursor.as_mut())
        {
            cursor.1 = seq; // only now: an event that was not delivered is requested again
        }
        Ok(())
    }

    /// Delivers to the application. If that takes so long that the server would miss our pongs, the connection is dropped; the
    /// next one resumes after the last event that was taken.
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

    /// Takes a command in, connected or not.
    fn accept(&mut self, command: Command) {
        match command {
            Command::Join(room) => drop(self.rooms.entry(room).or_default()),
            Command::Leave(room) => {
                if self.rooms.remove(&room).is_some() {
                    self.leaves.push_back(room);
                }
            }
            Command::Publish { room, data, tag } => match self.pending.push(room, data) {
                Some(id) => drop(self.tags.insert(id, tag)),
                None => self.refused = Some(tag),
            },
            Command::Wake => {}
        }
    }
}

/// A room that is being joined must be joined first. The server answers for one that the application never joined.
fn is_ready(rooms: &BTreeMap<String, Room>, room: &str) -> bool {
    rooms.get(room).is_none_or(|room| room.join == Join::Done)
}
// ANCHOR_END: client_session
