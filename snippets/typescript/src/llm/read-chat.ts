// llm/read-chat: reads the answer of a model from the relay (`llm/relay` in Rust), to its end and no further.
//
// Use it wherever a page shows an answer as it is written. Goes with `sse/event-stream.ts`;
// `llm/use-token-stream.tsx` is the React hook on top of it.
// Promise: it returns only after the terminal event. A response that merely ends, an abort and a failure throw:
// none of them can be taken for a whole answer.

// ANCHOR: types
import { EventStreamParser, type ServerSentEvent } from "../sse/event-stream.ts";

export type Kind = "text" | "reasoning" | "refusal";

/** The model is done. Only `stop` and `tool_calls` say that it had said everything. */
export interface Done {
  reason: "stop" | "tool_calls" | "max_tokens" | "content_filter" | "refusal" | "paused" | "other";
  tools: string[];
  usage: { input: number | null; output: number | null };
}

/** No whole answer. What has arrived by then is with the caller, and is to be shown as cut. */
export class ChatError extends Error {
  override readonly name = "ChatError";
  /** Stable, to choose words by: `truncated`, `silent`, `rate_limited`, … */
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
// ANCHOR_END: types

// ANCHOR: post
/**
 * One POST, never repeated: a second one would be a second answer, and paid for. Leaving the loop, or `signal`,
 * closes the connection, which is what stops the model.
 */
export async function* postChat(
  url: string | URL,
  body: unknown,
  signal: AbortSignal,
  idleTimeout = 45_000,
): AsyncGenerator<ServerSentEvent, void, void> {
  const silence = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const restart = (): void => {
    clearTimeout(timer);
    // No bound on the whole: answers of minutes are healthy. The server's pings count as life.
    timer = setTimeout(() => silence.abort(new ChatError("silent", true)), Math.min(idleTimeout, 2 ** 31 - 1)); // more is 1 ms
  };
  const stop = new AbortController();
  try {
    restart();
    const response = await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/event-stream" },
      body: JSON.stringify(body),
      signal: AbortSignal.any([signal, silence.signal, stop.signal]),
    });
    if (!response.ok || !/^text\/event-stream\b/i.test(response.headers.get("content-type") ?? "")) {
      throw await refusal(response);
    }
    const parser = new EventStreamParser();
    const decoder = new TextDecoder();
    const reader = response.body!.getReader();
    for (;;) {
      restart();
      const { done, value } = await reader.read();
      clearTimeout(timer); // the time that the consumer takes is not silence
      if (done) return;
      for (const event of parser.push(decoder.decode(value, { stream: true }))) {
        signal.throwIfAborted(); // also between the events of one chunk
        yield event;
      }
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason; // Stop, not a failure, and not a success
    if (silence.signal.aborted) throw silence.signal.reason;
    throw error instanceof TypeError ? new ChatError("network", true) : error;
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}

/** Before the answer has begun, failures are statuses with the same codes. */
async function refusal(response: Response): Promise<ChatError> {
  const error = (await response.json().catch(() => ({}))) as { code?: unknown; retryable?: unknown };
  const seconds = Number(response.headers.get("retry-after") ?? 0);
  const code = typeof error.code === "string" ? error.code : `http_${response.status}`;
  return new ChatError(code, error.retryable === true, Number.isFinite(seconds) ? seconds * 1_000 : 0);
}
// ANCHOR_END: post

// ANCHOR: read
/**
 * Reads `postChat`, or `connect` of `sse/connect.ts` where answers can be resumed. `onDelta` is awaited, so a slow
 * consumer slows the stream.
 */
export async function readChat(
  events: AsyncIterable<ServerSentEvent>,
  onDelta: (kind: Kind, text: string) => void | Promise<void>,
): Promise<Done> {
  for await (const { type, data } of events) {
    switch (type) {
      case "text":
      case "reasoning":
      case "refusal":
        await onDelta(type, (JSON.parse(data) as { text: string }).text);
        break;
      case "done":
        return JSON.parse(data) as Done;
      case "failed": {
        const error = JSON.parse(data) as { code: string; retryable: boolean; retry_after?: number };
        throw new ChatError(error.code, error.retryable, (error.retry_after ?? 0) * 1_000);
      }
      // `ping`, and whatever a later version of the server adds.
    }
  }
  // A proxy ends a response that was cut as properly as a whole one.
  throw new ChatError("truncated", true);
}
// ANCHOR_END: read
