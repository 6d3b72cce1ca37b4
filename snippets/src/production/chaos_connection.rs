//! One connection of `super::chaos`: both directions, and its end.

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch, time::timeout};

use super::chaos_flow::{Cut, End, Lane, Plan, pump};

/// To reach the upstream, and for a peer to close its side after a cut with FIN.
const PATIENCE: Duration = Duration::from_secs(5);

/// One connection, open or ended.
#[derive(Debug, Default)]
pub struct Connection {
    /// From the server to the client.
    pub to_client: Lane,
    /// From the client to the server.
    pub to_server: Lane,
    cut: watch::Sender<Option<Cut>>,
    end: watch::Sender<Option<End>>,
}

impl Connection {
    /// Ends it on both sides; without effect when it has ended.
    pub fn cut(&self, cut: Cut) {
        self.cut.send_replace(Some(cut));
    }

    /// How it has ended, `None` while it is open.
    pub fn end(&self) -> Option<End> {
        *self.end.borrow()
    }

    /// Waits for its end.
    pub async fn ended(&self) -> End {
        wait(&self.end).await
    }

    pub(super) async fn carry(
        &self,
        mut client: TcpStream,
        upstream: SocketAddr,
        plan: &Plan,
        seed: u64,
    ) {
        let connected = timeout(PATIENCE, TcpStream::connect(upstream)).await;
        let Ok(Ok(mut server)) = connected else {
            reset(client);
            self.end.send_replace(Some(End::Unreachable));
            return;
        };
        // Otherwise the kernel puts small pieces together again.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let end = {
            let ((from_client, to_client), (from_server, to_server)) =
                (client.split(), server.split());
            let down = pump(
                from_server,
                to_client,
                &plan.to_client,
                seed,
                &self.to_client,
            );
            let up = pump(
                from_client,
                to_server,
                &plan.to_server,
                !seed,
                &self.to_server,
            );
            tokio::select! {
                biased;
                cut = wait(&self.cut) => End::Cut(cut),
                both = async { tokio::try_join!(down, up) } => both.err().unwrap_or(End::Closed),
            }
        };
        if end == End::Cut(Cut::Fin) {
            let _ = (client.shutdown().await, server.shutdown().await);
            self.end.send_replace(Some(end));
            // A socket that is closed with unread input sends RST after its FIN: read on until the peer closes.
            let (mut to_nobody, mut to_nowhere) = (tokio::io::sink(), tokio::io::sink());
            let rest = async {
                tokio::join!(
                    tokio::io::copy(&mut client, &mut to_nobody),
                    tokio::io::copy(&mut server, &mut to_nowhere)
                )
            };
            let _ = timeout(PATIENCE, rest).await;
            return;
        }
        if end != End::Closed {
            reset(client);
            reset(server);
        }
        self.end.send_replace(Some(end));
    }
}

/// Closes with RST instead of FIN.
pub(super) fn reset(socket: TcpStream) {
    let _ = socket.set_zero_linger();
}

async fn wait<T: Copy>(sender: &watch::Sender<Option<T>>) -> T {
    let mut receiver = sender.subscribe();
    loop {
        if let Some(value) = *receiver.borrow_and_update() {
            return value;
        }
        let _ = receiver.changed().await;
    }
}
