//! One direction of a connection of `super::chaos`: what happens to the bytes, and where.
//!
//! [`pump`] needs no socket: over `tokio::io::duplex` it runs under paused time.

use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

/// Bytes that one direction holds at most.
const BUFFER: u64 = 16 * 1024;

/// What happens to one connection; by default nothing.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// From the server to the client.
    pub to_client: Flow,
    /// From the client to the server.
    pub to_server: Flow,
}

/// What happens to one direction; by default nothing.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Sizes in bytes of the pieces that are written apart. Where they end depends on the seed alone.
    pub split: Option<RangeInclusive<u64>>,
    /// Pause before each write.
    pub delay: Option<RangeInclusive<Duration>>,
    /// Bytes per second.
    pub rate: Option<NonZeroU32>,
    /// What happens as soon as so many bytes have passed, exactly.
    pub fault: Option<(RangeInclusive<u64>, Fault)>,
}

/// What a [`Flow`] ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing passes any more, and the connection stays open, until [`Lane::go_on`].
    Stall,
    /// The whole connection ends.
    Cut(Cut),
}

/// How both sides of a connection are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// As a process that exits in good order does.
    Fin,
    /// As a process that is killed with unread input, a firewall or a load balancer does.
    Reset,
}

/// How a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both sides have closed it.
    Closed,
    /// One side has reset it; the other was reset too.
    Reset,
    /// By plan or command.
    Cut(Cut),
    /// The upstream could not be reached; the client was reset.
    Unreachable,
}

/// What can be seen and commanded of one direction.
#[derive(Debug, Default)]
pub struct Lane {
    passed: watch::Sender<u64>,
    stalled: watch::Sender<bool>,
}

impl Lane {
    /// Bytes that have been written to the receiver.
    pub fn passed(&self) -> u64 {
        *self.passed.borrow()
    }

    /// Waits until so many bytes have passed.
    pub async fn until_passed(&self, bytes: u64) {
        let mut passed = self.passed.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = passed.wait_for(|passed| *passed >= bytes).await;
    }

    /// From now on nothing passes, neither bytes nor the end. What is underway in kernel buffers arrives.
    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    /// Ends a stall. What was held back is passed on; nothing is lost.
    pub fn go_on(&self) {
        self.stalled.send_replace(false);
    }

    /// Whether nothing passes.
    pub fn is_stalled(&self) -> bool {
        *self.stalled.borrow()
    }
}

/// Passes bytes on as `flow` says, up to the end of `from`, which is passed on too.
///
/// # Errors
/// The [`End`] that the whole connection has come to.
pub async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    flow: &Flow,
    seed: u64,
    lane: &Lane,
) -> Result<(), End> {
    let mut random = Random(seed);
    let mut stalled = lane.stalled.subscribe();
    let fault = flow.fault.as_ref();
    let mut fault = fault.map(|(after, fault)| (random.draw(after), *fault));
    let (mut passed, mut piece_end) = (0, 0);
    let mut free_at = Instant::now();
    let mut buffer = vec![0; BUFFER as usize];
    loop {
        match fault {
            Some((at, Fault::Cut(cut))) if at == passed => return Err(End::Cut(cut)),
            Some((at, Fault::Stall)) if at == passed => {
                fault = None;
                lane.stall();
            }
            _ => {}
        }
        if piece_end == passed {
            let size = flow.split.as_ref().map(|sizes| random.draw(sizes).max(1));
            piece_end = size.map_or(u64::MAX, |size| passed.saturating_add(size));
        }
        let end = fault.map_or(piece_end, |(at, _)| piece_end.min(at));
        // With a rate, at most what passes in 50 ms.
        let most = flow.rate.map_or(BUFFER, |rate| u64::from(rate.get() / 20));
        let room = (end - passed).min(most.clamp(1, BUFFER)) as usize;
        let read = from.read(&mut buffer[..room]).await;
        if let Some(delay) = &flow.delay {
            let micros = delay.start().as_micros() as u64..=delay.end().as_micros() as u64;
            sleep(Duration::from_micros(random.draw(&micros))).await;
        }
        if let Some(rate) = flow.rate {
            sleep_until(free_at).await;
            let cost = Duration::from_secs_f64(
                *read.as_ref().unwrap_or(&0) as f64 / f64::from(rate.get()),
            );
            free_at = free_at.max(Instant::now()) + cost;
        }
        // The sender is borrowed with `lane`: it cannot be gone.
        let _ = stalled.wait_for(|stalled| !stalled).await;
        match read {
            Ok(0) => return to.shutdown().await.map_err(|_| End::Reset),
            Ok(n) => to.write_all(&buffer[..n]).await.map_err(|_| End::Reset)?,
            Err(_) => return Err(End::Reset),
        }
        passed += read.unwrap_or(0) as u64;
        lane.passed.send_replace(passed);
        // Lets a reader in the same runtime have this piece before the next is written.
        tokio::task::yield_now().await;
    }
}

/// SplitMix64: small, and the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number of `range`; its start when it is empty.
    fn draw(&mut self, range: &RangeInclusive<u64>) -> u64 {
        let span = range.end().saturating_sub(*range.start());
        let offset = match span.checked_add(1) {
            Some(count) => self.next() % count,
            None => self.next(),
        };
        range.start() + offset
    }
}
