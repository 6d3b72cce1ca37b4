//! A TCP proxy that misbehaves on purpose: put it between client and server in tests.
//!
//! It splits the bytes anywhere, delays, slows and stalls them, cuts with FIN or RST after a number of bytes or on
//! command, and refuses connections. What it does depends on the seed, the number of the connection and the position in the
//! stream, never on time: a failure comes again with the same seed. Every connection can be watched and commanded.
//! Bounded: 16 KiB for each direction, `max_connections`, records of the newest 1,024 connections. Dropping it ends everything.
//! It works on real sockets, so not under paused time. Goes with `chaos_connection.rs` and `chaos_flow.rs`; as a program: `examples/chaos_proxy.rs`.

// ANCHOR: chaos
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    chaos_connection::{Connection, reset},
    chaos_flow::{Cut, Plan, Random},
};

/// Connections of which records are kept.
const KEPT: usize = 1024;

/// The proxy, from [`ChaosProxy::start`] until it is dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Dropped, it aborts the accept loop, and that its connections.
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Connections so far.
    accepted: watch::Sender<u64>,
    newest: Mutex<VecDeque<Arc<Connection>>>,
    refuse: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
}

impl ChaosProxy {
    /// Listens on `listen` (port 0: a free one) in front of `upstream`. `plan` is asked for each connection by its number,
    /// from 0. Connections above `max_connections` are reset.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(
        listen: SocketAddr,
        upstream: SocketAddr,
        seed: u64,
        max_connections: usize,
        plan: impl Fn(u64) -> Plan + Send + 'static,
    ) -> io::Result<Self> {
        // SO_REUSEPORT alone would share the port with another proxy of this kind.
        drop(bind(listen, false)?.listen(1)?);
        // Bound and never listening, it keeps the port while connections are refused.
        let holder = bind(listen, true)?;
        let addr = holder.local_addr()?;
        let mut listener = Some(bind(addr, true)?.listen(1024)?);
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let of_loop = Arc::clone(&shared);
        tasks.spawn(async move {
            let (_holder, shared) = (holder, of_loop);
            let mut refuse = shared.refuse.subscribe();
            let mut connections = JoinSet::new();
            loop {
                let Some(open) = &listener else {
                    let _ = refuse.wait_for(|refuse| !refuse).await;
                    listener = bind(addr, true).and_then(|socket| socket.listen(1024)).ok();
                    if listener.is_none() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    shared.refusing.send_replace(listener.is_none());
                    continue;
                };
                let client = tokio::select! {
                    biased;
                    _ = refuse.wait_for(|refuse| *refuse) => {
                        listener = None;
                        shared.refusing.send_replace(true);
                        continue;
                    }
                    client = accept(open) => client,
                };
                while connections.try_join_next().is_some() {}
                if connections.len() >= max_connections {
                    reset(client);
                    continue;
                }
                let number = *shared.accepted.borrow();
                let connection = Arc::new(Connection::default());
                {
                    let mut newest = shared.newest();
                    newest.truncate(KEPT - 1);
                    newest.push_front(Arc::clone(&connection));
                    shared.accepted.send_replace(number + 1);
                }
                let plan = plan(number);
                let seed = Random(seed ^ number.rotate_left(32)).next();
                connections
                    .spawn(async move { connection.carry(client, upstream, &plan, seed).await });
            }
        });
        Ok(Self {
            addr,
            shared,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The newest connections, the newest first.
    pub fn connections(&self) -> Vec<Arc<Connection>> {
        self.shared.newest().iter().cloned().collect()
    }

    /// Waits for connection `number`, from 0. `None`: its record is no longer kept.
    pub async fn connection(&self, number: u64) -> Option<Arc<Connection>> {
        let mut accepted = self.shared.accepted.subscribe();
        let _ = accepted.wait_for(|accepted| *accepted > number).await;
        let newest = self.shared.newest();
        let back = *self.shared.accepted.borrow() - 1 - number;
        newest.get(usize::try_from(back).ok()?).cloned()
    }

    /// Ends every open connection.
    pub fn cut_all(&self, cut: Cut) {
        self.shared.newest().iter().for_each(|open| open.cut(cut));
    }

    /// From now on new connections are refused (ECONNREFUSED), or accepted again. Those that were accepted before go on.
    pub async fn refuse(&self, refuse: bool) {
        self.shared.refuse.send_replace(refuse);
        let mut refusing = self.shared.refusing.subscribe();
        let _ = refusing.wait_for(|refusing| *refusing == refuse).await;
    }
}
// ANCHOR_END: chaos

impl Shared {
    fn newest(&self) -> MutexGuard<'_, VecDeque<Arc<Connection>>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bind(addr: SocketAddr, shared: bool) -> io::Result<TcpSocket> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(shared)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            // Out of descriptors, or gone before it was accepted: not at full speed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
