//! Sends a rendered answer, with its faults, at its pace.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::sync::watch;

use super::record::Record;
use super::{Ending, Fault, Frame, Script};

/// One step of an answer.
pub(super) enum Step {
    /// Send one HTTP chunk that completes this many tokens.
    Send(Bytes, usize),
    Pause(Duration),
    /// Silence until the release.
    Hold,
    /// End the body without its last chunk.
    Abort,
}

/// What to do for `script`, whose answer is `frames`.
pub(super) fn plan(
    mut frames: Vec<Frame>,
    script: &Script,
    error_event: fn() -> String,
) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    let after_token = |frames: &[Frame], after: usize| {
        let mut tokens = frames.iter().enumerate().filter(|(_, frame)| frame.token);
        match after.checked_sub(1) {
            Some(last) => tokens.nth(last).map_or(frames.len(), |(at, _)| at + 1),
            None => tokens.next().map_or(frames.len(), |(at, _)| at),
        }
    };
    let mut last = Vec::new();
    match script.fault {
        Fault::None | Fault::Status { .. } | Fault::HoldHead => {}
        Fault::Stall { after } => {
            let rest = frames.split_off(after_token(&frames, after));
            send(&frames, script, &mut steps);
            steps.push_back(Step::Hold);
            frames = rest;
        }
        Fault::CutBetween { after, ending } => {
            frames.truncate(after_token(&frames, after));
            last.extend((ending == Ending::Abort).then_some(Step::Abort));
        }
        Fault::CutInside { after, ending } => {
            let mut rest = frames.split_off(after_token(&frames, after));
            if let Some(half) = rest.first_mut() {
                let line = half.bytes.trim_end().len();
                let cut = (line / 2..=line).find(|&at| half.bytes.is_char_boundary(at));
                frames.push(Frame::other(half.bytes[..cut.unwrap_or(0)].to_owned()));
            }
            last.extend((ending == Ending::Abort).then_some(Step::Abort));
        }
        Fault::Error { after } => {
            frames.truncate(after_token(&frames, after));
            frames.push(Frame::other(error_event()));
        }
    }
    send(&frames, script, &mut steps);
    steps.extend(last);
    steps
}

fn send(frames: &[Frame], script: &Script, steps: &mut VecDeque<Step>) {
    let Some(size) = script.chunk_bytes else {
        for frame in frames {
            if frame.token && !script.pace.is_zero() {
                steps.push_back(Step::Pause(script.pace));
            }
            let bytes = Bytes::copy_from_slice(frame.bytes.as_bytes());
            steps.push_back(Step::Send(bytes, usize::from(frame.token)));
        }
        return;
    };
    let mut chunk = Vec::new();
    let mut tokens = 0;
    for frame in frames {
        for (at, byte) in frame.bytes.bytes().enumerate() {
            chunk.push(byte);
            tokens += usize::from(frame.token && at + 1 == frame.bytes.len());
            if chunk.len() >= size {
                let bytes = Bytes::from(std::mem::take(&mut chunk));
                steps.push_back(Step::Send(bytes, std::mem::take(&mut tokens)));
            }
        }
    }
    if !chunk.is_empty() {
        steps.push_back(Step::Send(chunk.into(), tokens));
    }
}

/// Plays `steps` as a response body.
pub(super) fn play(
    steps: VecDeque<Step>,
    released: watch::Receiver<u64>,
    record: Record,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let start = (steps, released, record);
    stream::unfold(start, |(mut steps, mut released, mut record)| async move {
        loop {
            match steps.pop_front() {
                Some(Step::Send(bytes, tokens)) => {
                    record.add_tokens(tokens);
                    // hyper writes to the socket when the body is pending: each chunk goes out alone.
                    tokio::task::yield_now().await;
                    return Some((Ok(bytes), (steps, released, record)));
                }
                Some(Step::Pause(pause)) => tokio::time::sleep(pause).await,
                Some(Step::Hold) => wait_for_release(&mut released).await,
                Some(Step::Abort) => {
                    record.finish();
                    tokio::task::yield_now().await;
                    let error = io::Error::other("the script ends here");
                    steps.clear();
                    return Some((Err(error), (steps, released, record)));
                }
                None => {
                    record.finish();
                    return None;
                }
            }
        }
    })
}

/// Waits for a release since the exchange was opened.
pub(super) async fn wait_for_release(released: &mut watch::Receiver<u64>) {
    if released.changed().await.is_err() {
        // The handle is gone: nobody can release any more. Only the reader can end this.
        std::future::pending::<()>().await;
    }
}
