//! A decoder of `providers` over an HTTP body: a provider's bytes as a stream of model events.
//!
//! Use it with the decoder of your provider (`openai_chat`, `anthropic`, `openai_responses`, `gemini`, `ollama`). Needs
//! `providers/decode` with its files, `failure` and `model_event`.

use std::{collections::VecDeque, error::Error};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

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
    let start = (
        Box::pin(body),
        Records::new(decoder),
        VecDeque::new(),
        false,
    );
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
