// llm/read-chat: reads the answer of a model from the relay (`llm/relay` in Rust) up to its terminal event.
//
// Use it for every page that shows an answer as it is written. Needs `sse/event-stream.ts`, `llm/chat-events.ts`;
// `llm/answer-source.ts` adds answers that outlive the page, `llm/use-token-stream.tsx` is the React hook.
// Guarantee: it returns only after the terminal event. A response that merely ends, an abort and a failure throw:
// none of them can be treated as a complete answer.

import { EventStreamParser, retryAfterMs, type ServerSentEvent } from "../sse/event-stream.ts";
import { CHAT_DATA, CHAT_EVENTS, type ChatEventNames, type Done, type Failed, type Kind } from "./chat-events.ts";

export type { Done, Kind } from "./chat-events.ts";

/** The answer is not complete. The caller has the text that arrived before: show it as cut. */
export class ChatError extends Error {
  override readonly name = "ChatError";
  /** Stable, to choose words by: `truncated`, `silent`, `network`, `no_stream`, or a code of the server. */
  readonly code: string;
  readonly retryable: boolean;
  readonly retryAfterMs: number;
  constructor(code: string, retryable: boolean, retryAfterMs = 0) {
    super(`the answer is incomplete: ${code}`);
    this.code = code;
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
  }
}

// ANCHOR: post
/**
 * Sends one POST and never repeats it: a second POST would be a second answer, also paid for. Leaving the loop or
 * aborting `signal` closes the connection, which stops the relay.
 */
export async function* postChat(
  url: string | URL,
  body: unknown,
  signal: AbortSignal,
  idleTimeout = 45_000,
): AsyncGenerator<ServerSentEvent, void, void> {
  const stop = new AbortController();
  const silence = new Silence(idleTimeout);
  try {
    const request = fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/event-stream" },
      body: JSON.stringify(body),
      signal: AbortSignal.any([signal, silence.signal, stop.signal]),
    });
    yield* responseEvents(await silence.bound(request), signal, silence);
  } catch (error) {
    throw reason(error, signal, silence);
  } finally {
    stop.abort();
  }
}
// ANCHOR_END: post

/** The events of a response that the caller already has. `idleTimeout` in ms; the server's pings end a silence too. */
export async function* responseEvents(
  response: Response,
  signal: AbortSignal = new AbortController().signal,
  silence: Silence = new Silence(45_000),
): AsyncGenerator<ServerSentEvent, void, void> {
  if (!response.ok || !/^text\/event-stream\b/i.test(response.headers.get("content-type") ?? ""))
    throw await refusal(response);
  // React Native and some webviews have no `body`: a retry cannot help.
  if (!response.body) throw new ChatError("no_stream", false);
  const parser = new EventStreamParser();
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  const cancel = (): void => void reader.cancel().catch(() => undefined);
  const either = AbortSignal.any([signal, silence.signal]);
  either.addEventListener("abort", cancel);
  try {
    for (;;) {
      // No limit on the complete answer: minutes are normal. The time that the consumer takes is not silence.
      const { done, value } = await silence.bound(reader.read());
      either.throwIfAborted();
      if (done) return;
      for (const event of parser.push(decoder.decode(value, { stream: true }))) {
        signal.throwIfAborted(); // also between the events of one chunk
        yield event;
      }
    }
  } catch (error) {
    throw reason(error, signal, silence);
  } finally {
    either.removeEventListener("abort", cancel);
    cancel();
  }
}

/** Aborts `signal` when one wait takes longer than `ms`. */
class Silence {
  readonly #abort = new AbortController();
  readonly #ms: number;
  readonly signal = this.#abort.signal;
  constructor(ms: number) {
    this.#ms = Math.min(ms, 2 ** 31 - 1); // setTimeout treats more as 1 ms
  }
  async bound<T>(wait: Promise<T>): Promise<T> {
    const due = Date.now() + this.#ms;
    const end = (): void => this.#abort.abort(new ChatError("silent", true));
    const late = (): boolean => Date.now() - due > 1_000;
    // Late: the machine has slept. What arrived before is read first.
    let timer = setTimeout(() => (late() ? (timer = setTimeout(end, 1_000)) : end()), this.#ms);
    try {
      return await wait;
    } finally {
      clearTimeout(timer);
    }
  }
}

function reason(error: unknown, signal: AbortSignal, silence: Silence): unknown {
  if (signal.aborted) return signal.reason; // Stop: neither a failure nor a success
  if (silence.signal.aborted) return silence.signal.reason;
  return error instanceof TypeError ? new ChatError("network", true) : error;
}

/** Before the answer has begun, failures are statuses with the same codes. */
export async function refusal(response: Response): Promise<ChatError> {
  const body: unknown = await response.json().catch(() => undefined);
  const error: Partial<Failed> = body && typeof body === "object" ? CHAT_DATA.refused.read(body) : {};
  const code = typeof error.code === "string" ? error.code : `http_${response.status}`;
  return new ChatError(code, error.retryable === true, retryAfterMs(response.headers.get("retry-after")));
}

// ANCHOR: read
/**
 * Reads a `Response` of yours, `postChat`, or the events of an `AnswerSource` (`llm/answer-source.ts`). `onDelta` is awaited, so a
 * slow consumer slows the stream.
 */
export async function readChat(
  source: AsyncIterable<ServerSentEvent> | Response,
  onDelta: (kind: Kind, text: string) => void | Promise<void>,
  names: ChatEventNames = CHAT_EVENTS,
): Promise<Done> {
  for await (const { type, data } of source instanceof Response ? responseEvents(source) : source) {
    switch (type) {
      case names.text:
      case names.reasoning:
      case names.refusal: {
        const kind = type === names.text ? "text" : type === names.reasoning ? "reasoning" : "refusal";
        await onDelta(kind, CHAT_DATA.text.read(JSON.parse(data)));
        break;
      }
      case names.done:
        return CHAT_DATA.done.read(JSON.parse(data));
      case names.failed: {
        const { code, retryable, retry_after } = CHAT_DATA.failed.read(JSON.parse(data));
        throw new ChatError(code, retryable, (retry_after ?? 0) * 1_000);
      }
      // `ping`, and events of a later version of the server.
    }
  }
  // A proxy may end a cut response as if it were complete.
  throw new ChatError("truncated", true);
}
// ANCHOR_END: read
