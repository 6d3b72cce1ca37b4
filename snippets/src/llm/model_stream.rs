//! A decoder of `providers` over an HTTP body: a provider's bytes as a stream of model events.
//!
//! Use it with the decoder of your provider (`openai_chat`, `anthropic`, `openai_responses`, `gemini`, `ollama`). An answer that the
//! provider keeps (`background` of OpenAI Responses) is continued after a cut, and cancelled when its reader leaves. Needs
//! `providers/decode` with its files, `failure` and `model_event`.

use std::{collections::VecDeque, error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    failure::ModelError,
    model_event::ModelEvent,
    providers::decode::{Decoder, Records},
};

/// The model's events in the body of a response with status 200.
///
/// The stream is lazy: it reads on when it is polled, so a slow consumer is not buffered for, and dropping it closes the provider's
/// connection. It ends after `Finish` or the first error.
pub fn model_events<D, S, E>(
    body: S,
    decoder: D,
) -> impl Stream<Item = Result<ModelEvent, ModelError>> + Send
where
    D: Decoder + Send,
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Error + Send,
{
    record_events(body, Records::new(decoder))
}

/// The same with another limit of a record: [`Records::with_limit`].
pub fn record_events<D, S, E>(
    body: S,
    records: Records<D>,
) -> impl Stream<Item = Result<ModelEvent, ModelError>> + Send
where
    D: Decoder + Send,
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Error + Send,
{
    let start = (Box::pin(body), records, VecDeque::new(), false);
    stream::unfold(
        start,
        |(mut body, mut records, mut ready, mut ended)| async move {
            let mut out = Vec::new();
            while ready.is_empty() && !ended {
                let result = match body.next().await {
                    Some(Ok(chunk)) => records.push(&chunk, &mut out),
                    Some(Err(error)) => Err(ModelError::transport(&error)),
                    None => records.end(&mut out),
                };
                ready.extend(out.drain(..).map(Ok));
                ended =
                    result.is_err() || matches!(ready.back(), Some(Ok(ModelEvent::Finish { .. })));
                ready.extend(result.err().map(Err));
            }
            let next = ready.pop_front()?;
            Some((next, (body, records, ready, ended)))
        },
    )
    .fuse()
}

// ANCHOR: kept
/// The body of a response.
pub type Body = BoxStream<'static, Result<Bytes, ModelError>>;
/// A response that has not begun.
pub type Opening = BoxFuture<'static, Result<Body, ModelError>>;

/// Requests the events of the answer with this id after this number.
pub type Rest = dyn Fn(&str, u64) -> Opening + Send + Sync;
/// Cancels the answer with this id.
pub type Cancel = dyn Fn(&str) -> BoxFuture<'static, Result<(), ModelError>> + Send + Sync;

/// The requests for an answer that the provider keeps. `upstream` makes them.
#[derive(Clone)]
pub struct Kept {
    /// For the rest of the answer.
    pub rest: Arc<Rest>,
    /// Stops the model.
    pub cancel: Arc<Cancel>,
    /// Requests without a new event, after which the answer has failed; and requests to cancel.
    pub attempts: u32,
    /// Bound of the random wait before the first of them. It doubles with each, up to 64 times.
    pub backoff: Duration,
    /// The cancellations that run. At shutdown: close it and wait for it.
    pub tasks: TaskTracker,
}

/// The same as [`model_events`], for an answer that the provider keeps. Dropped before its end, even before the provider has responded,
/// it is cancelled: closing the connection does not stop it.
///
/// # Errors
/// Those of `opening`.
pub async fn kept_events<D: Decoder + Send + 'static>(
    opening: Opening,
    decoder: D,
    kept: Kept,
) -> Result<BoxStream<'static, Result<ModelEvent, ModelError>>, ModelError> {
    let mut answer = KeptAnswer {
        records: Some(Records::new(decoder)),
        opening: Some(opening),
        body: stream::empty().boxed(),
        kept,
        tried: (0, 0),
        whole: false,
    };
    answer.open().await?;
    let start = (answer, VecDeque::new(), false);
    let events = stream::unfold(start, |(mut answer, mut ready, mut ended)| async move {
        while ready.is_empty() && !ended {
            let mut out = Vec::new();
            let result = answer.step(&mut out).await;
            answer.whole = matches!(out.last(), Some(ModelEvent::Finish { .. }));
            ended = answer.whole || result.is_err();
            ready.extend(out.into_iter().map(Ok).chain(result.err().map(Err)));
        }
        let next = ready.pop_front()?;
        Some((next, (answer, ready, ended)))
    });
    Ok(events.fuse().boxed())
}
// ANCHOR_END: kept

struct KeptAnswer<D: Decoder + Send + 'static> {
    /// `None` after the drop.
    records: Option<Records<D>>,
    opening: Option<Opening>,
    body: Body,
    kept: Kept,
    /// The last event at a cut, and the requests since.
    tried: (u64, u32),
    whole: bool,
}

impl<D: Decoder + Send + 'static> KeptAnswer<D> {
    async fn open(&mut self) -> Result<(), ModelError> {
        if let Some(opening) = &mut self.opening {
            let opened = opening.await;
            self.opening = None;
            self.body = opened?;
        }
        Ok(())
    }

    async fn step(&mut self, out: &mut Vec<ModelEvent>) -> Result<(), ModelError> {
        let Some(records) = &mut self.records else {
            return Err(ModelError::Truncated);
        };
        let cut = match self.body.next().await {
            Some(Ok(chunk)) => return records.push(&chunk, out),
            Some(Err(error)) => error,
            None => ModelError::Truncated,
        };
        self.body = stream::empty().boxed(); // closes the connection
        // Without an event, nobody knows its id.
        let Some((id, number)) = records.continued() else {
            return Err(cut);
        };
        if number != self.tried.0 {
            self.tried = (number, 0);
        }
        while self.tried.1 < self.kept.attempts {
            sleep(self.kept.wait(self.tried.1)).await;
            self.tried.1 += 1;
            match (self.kept.rest)(&id, number).await {
                Ok(body) => {
                    self.body = body;
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(%error, "an answer was not continued");
                    if !error.failure().is_retryable() {
                        break;
                    }
                }
            }
        }
        Err(cut)
    }
}

impl<D: Decoder + Send + 'static> Drop for KeptAnswer<D> {
    fn drop(&mut self) {
        let (Some(mut records), Ok(runtime)) = (self.records.take(), Handle::try_current()) else {
            return;
        };
        if self.whole {
            return;
        }
        let (opening, kept) = (self.opening.take(), self.kept.clone());
        let mut body = std::mem::replace(&mut self.body, stream::empty().boxed());
        let cancel = async move {
            if let Some(opening) = opening {
                body = opening.await.ok()?;
            }
            let id = loop {
                match records.continued() {
                    Some((id, _)) => break id,
                    None => records
                        .push(&body.next().await?.ok()?, &mut Vec::new())
                        .ok()?,
                }
            };
            drop(body);
            for tried in 0..kept.attempts {
                let Err(error) = (kept.cancel)(&id).await else {
                    return Some(());
                };
                tracing::warn!(%error, "an answer was not cancelled");
                if !error.failure().is_retryable() {
                    break;
                }
                sleep(kept.wait(tried)).await;
            }
            None
        };
        self.kept
            .tasks
            .spawn_on(timeout(LONGEST_CANCEL, cancel), &runtime);
    }
}

/// Longest time in which an answer is cancelled, with the wait for its first event.
const LONGEST_CANCEL: Duration = Duration::from_secs(120);

impl Kept {
    /// With full jitter.
    fn wait(&self, tried: u32) -> Duration {
        let bound = self.backoff * 2_u32.pow(tried.min(6));
        bound.mul_f64(rand::random::<f64>())
    }
}
