// sse/connect: an event stream over fetch that reconnects, as an async generator.
//
// Use it instead of EventSource for POST, headers, visible statuses, and to be read as slowly as
// the consumer works. Goes with `sse/event-stream.ts`.
// Guarantees: one event at a time, in order; at most 64 KiB are read ahead of the loop (backpressure), and an id counts
// as handled when the loop asks for the next event. `break` and `signal` close the connection at once.
//
// ```ts
// const request = () => ({ headers: { authorization: `Bearer ${token()}` } });
// for await (const { type, data } of connect("/orders/1/events", { signal, request })) { // cursor, statuses: `Contract`
//   if (type === "reset") await loadState(); // names and data are those of your server
//   else if (type === "order:paid") show(JSON.parse(data));
//   else if (type === "closed") break; // the terminal event: the end of a response is none
// } // catch EventStreamError: its `status` is final
// ```

import { AN_HOUR, EventStreamParser, retryAfterMs, type ServerSentEvent } from "./event-stream.ts";

/** The server has answered in a way that asking again cannot change, or must not. */
export class EventStreamError extends Error {
  override readonly name = "EventStreamError";
  /** The HTTP status, or 0 when there was none. */
  readonly status: number;
  constructor(message: string, status = 0, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

/** Where the server's contract differs from the HTML standard. */
export interface Contract {
  /** The parameter of the URL that has the cursor, in place of the header `Last-Event-ID`. */
  cursorQuery?: string;
  /** Statuses that end the stream: the generator returns. `[204]` unless given. */
  over?: readonly number[];
  /** Whether a refusal may pass, so that the request is sent again. 408, 425, 429 and 5xx except 501 and 505 unless given. */
  mayPass?: (status: number, response: Response) => boolean | Promise<boolean>;
}

// ANCHOR: options
export interface ConnectOptions extends Contract {
  /** Aborting it ends the request, the read or the wait; the generator then throws `signal.reason`. */
  signal: AbortSignal;
  /**
   * Called before each attempt: return method, body and headers, with a token that is still valid. If it throws
   * `RetryLater`, another attempt follows; any other error ends the stream.
   */
  request?: () => RequestInit | Promise<RequestInit>;
  /**
   * Gets a new token for `request` after a 401; a second 401 before a stream has opened is final. If it throws `RetryLater`, another
   * attempt follows; any other error ends the stream.
   */
  renew?: () => Promise<void>;
  /**
   * Called at each change of state, so that the page can show it. `waiting` comes before each further attempt, with the status of the
   * response if that was the reason.
   */
  onState?: (state: "connecting" | "open" | "waiting", status?: number) => void;
  /**
   * Sent with each attempt, so that the server recognizes a repeated request. Without it, a request other than GET is
   * not repeated once it may have had an effect.
   */
  idempotencyKey?: string;
  /**
   * Statuses after which a request other than GET is repeated, because they mean that no work was done. Not 503: a proxy
   * returns it for a server that died after it had received the request. `[429]` unless given.
   */
  refusals?: readonly number[];
  lastEventId?: string;
  /**
   * Silence in ms after which the connection counts as dead. Set it to three times the server's heartbeat interval.
   * `Infinity`: never.
   */
  idleTimeout?: number;
  /**
   * In ms. The delay before an attempt is the longest of `minDelay`, the server's `retry` and its `Retry-After` (each at
   * most an hour), plus a random time, so that the clients of a restarted server do not return together. The bound of the
   * random time starts at the longer of `minDelay` and `retry`, and doubles with each failure up to `maxDelay`.
   */
  minDelay?: number;
  maxDelay?: number;
  /** How long in ms a connection must live before the bound of the random time returns to its start. */
  stableAfter?: number;
  /** See `ParserOptions`. */
  maxEventSize?: number;
}

/**
 * Whether a retry may succeed; for any other status, it would get the same status. 520 to 530 come from CDNs that
 * cannot reach their origin.
 */
export function mayPass(status: number): boolean {
  return [408, 425, 429].includes(status) || (status >= 500 && status !== 501 && status !== 505);
}
// ANCHOR_END: options

/**
 * Yields events until the consumer breaks off, which it does at the terminal event of its protocol:
 * the end of a response means nothing (a proxy ends a cut one just as properly), so it reconnects.
 * Returns on 204. Throws `EventStreamError`, `EventTooLargeError`, or `signal.reason`.
 */
export async function* connect(
  url: string | URL,
  options: ConnectOptions,
): AsyncGenerator<ServerSentEvent, void, void> {
  const {
    signal,
    idempotencyKey,
    refusals = [429],
    over = [204],
    mayPass: again = mayPass,
    idleTimeout = 45_000,
    minDelay = 1_000,
    maxDelay = 30_000,
    stableAfter = 10_000,
  } = options;
  let lastEventId = options.lastEventId ?? "";
  let base = minDelay;
  let failures = 0;
  let renewed = false;
  for (;;) {
    const attempt = new AbortController();
    let openedAt = Infinity;
    let retryAfter = 0;
    let status: number | undefined;
    let cause: unknown;
    let safeToRepeat = true; // nothing is sent yet
    signal.throwIfAborted();
    options.onState?.("connecting");
    try {
      const init = (await options.request?.()) ?? {};
      signal.throwIfAborted();
      const headers = new Headers(init.headers);
      headers.set("accept", "text/event-stream");
      if (lastEventId !== "" && options.cursorQuery === undefined)
        headers.set("last-event-id", cursorHeader(lastEventId));
      if (idempotencyKey !== undefined) headers.set("idempotency-key", idempotencyKey);
      const either = AbortSignal.any([signal, attempt.signal]);
      const target = withCursor(url, options.cursorQuery, lastEventId);
      // Not in `watched`: a wrong URL or header is a mistake, not a network that recovers.
      const request = new Request(target, { cache: "no-store", ...init, headers, signal: either });
      safeToRepeat = request.method === "GET" || idempotencyKey !== undefined;
      // ANCHOR: judge
      const response = await watched(idleTimeout, attempt, either, fetch(request));
      if (over.includes(response.status)) return;
      // HTML section 9.2.2: only 200 is a stream; a 206 is a part of one.
      if (response.status !== 200) {
        ({ status } = response);
        if (status === 401 && options.renew !== undefined && !renewed) {
          safeToRepeat = true; // refused before any work
          await options.renew();
          renewed = true;
          continue;
        }
        if (!(await again(status, response))) throw new EventStreamError(`HTTP ${status}`, status);
        safeToRepeat ||= refusals.includes(status);
        retryAfter = retryAfterMs(response.headers.get("retry-after"));
        throw new RetryLater(`HTTP ${status}`);
      }
      // A proxy's error page, parsed as a stream, would look like a stream without events.
      const type = response.headers.get("content-type") ?? "";
      if (!/^text\/event-stream\s*(;|$)/i.test(type)) {
        throw new EventStreamError(`content-type ${JSON.stringify(type)}`, response.status);
      }
      // React Native's own fetch gives no body; `expo/fetch` does.
      if (response.body == null) throw new EventStreamError("this fetch gives no body to read", response.status);
      // ANCHOR_END: judge
      // ANCHOR: read
      openedAt = performance.now();
      renewed = false;
      options.onState?.("open");
      const parser = new EventStreamParser({ ...options, lastEventId });
      const decoder = new TextDecoder();
      const read = readAhead(response.body.getReader());
      for (;;) {
        // The idle clock runs while the client waits for the server, not while the consumer works.
        const { done, value } = await watched(idleTimeout, attempt, either, read());
        if (done) throw new RetryLater("the response ended without the terminal event");
        for (const event of parser.push(decoder.decode(value, { stream: true }))) {
          signal.throwIfAborted(); // also between the events of one chunk
          yield event;
          lastEventId = event.lastEventId; // handled: the consumer has asked for the next one
        }
        lastEventId = parser.lastEventId; // a block with an id alone moves the cursor too
        if (parser.retry !== undefined) base = Math.min(Math.max(parser.retry, minDelay), AN_HOUR);
      }
      // ANCHOR_END: read
    } catch (error) {
      if (!(error instanceof RetryLater)) throw error; // a fault, or what the consumer has thrown at `yield`
      signal.throwIfAborted();
      cause = error;
    } finally {
      attempt.abort(); // also when the consumer breaks off at `yield`
    }
    // ANCHOR: retry
    if (!safeToRepeat) throw new EventStreamError("interrupted, and the request must not be repeated", 0, { cause });
    if (performance.now() - openedAt >= stableAfter) failures = 0;
    options.onState?.("waiting", status);
    await sleep(Math.max(base, retryAfter) + Math.random() * Math.min(maxDelay, base * 2 ** failures), signal);
    failures += 1;
    // ANCHOR_END: retry
  }
}

// ANCHOR: helpers
/** What is thrown for a reason that may pass: the token's server is away. */
export class RetryLater extends Error {}

const LONGEST_TIMER = 2 ** 31 - 1; // ms; setTimeout takes what is longer for 1
const READ_AHEAD = 64 * 1024; // bytes

/**
 * Reads on while the consumer works, up to `READ_AHEAD`: WebKit gives what arrives while no read is pending only with
 * the chunk after it (bug 322545). Beyond that the server waits.
 */
function readAhead(
  reader: ReadableStreamDefaultReader<Uint8Array<ArrayBuffer>>,
): () => Promise<ReadableStreamReadResult<Uint8Array<ArrayBuffer>>> {
  const chunks: ReadableStreamReadResult<Uint8Array<ArrayBuffer>>[] = [];
  let waiting = 0; // bytes
  let reading = false;
  let ended = false;
  let failure: { error: unknown } | undefined;
  let wake = (): void => undefined;
  const fill = async (): Promise<void> => {
    if (reading) return;
    reading = true;
    try {
      while (!ended && waiting < READ_AHEAD) {
        const chunk = await reader.read();
        ended = chunk.done;
        waiting += chunk.value?.length ?? 0;
        chunks.push(chunk);
        wake();
      }
    } catch (error) {
      ended = true;
      failure = { error };
      wake();
    }
    reading = false;
  };
  return async () => {
    for (;;) {
      void fill();
      const chunk = chunks.shift();
      if (chunk !== undefined) {
        waiting -= chunk.value?.length ?? 0;
        void fill();
        return chunk;
      }
      if (failure !== undefined) throw failure.error;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
}

/** Awaits fetch or a read; after `ms` of silence it aborts `attempt`, which makes the operation reject. */
async function watched<T>(
  ms: number,
  attempt: AbortController,
  either: AbortSignal,
  operation: Promise<T>,
): Promise<T> {
  const silent = (): void => attempt.abort(new RetryLater(`silence of ${ms} ms`));
  const timer = ms <= LONGEST_TIMER ? setTimeout(silent, ms) : undefined;
  try {
    return await operation;
  } catch (error) {
    // A TypeError of fetch is the network; abort is silence, or the caller's, who is notified below; the rest is a fault.
    if (error instanceof TypeError || either.aborted) throw new RetryLater("the connection was lost", { cause: error });
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** HTML section 9.2.3 sends the id as UTF-8; in a string for `Headers` each character is one byte. */
function cursorHeader(id: string): string {
  // RFC 9110 section 5.5 allows no control character but the tab. Node's fetch refuses such a request with the error of
  // a dead network, its server with a 400; without the header the client would lose or repeat events in silence.
  if (/[^\t\x20-\x7e\x80-\uffff]/.test(id)) throw new EventStreamError(`id ${JSON.stringify(id)} cannot be a header`);
  let bytes = "";
  for (const byte of new TextEncoder().encode(id)) bytes += String.fromCharCode(byte);
  return bytes;
}

function withCursor(url: string | URL, parameter: string | undefined, cursor: string): string | URL {
  if (parameter === undefined || cursor === "") return url;
  const made = new URL(url, globalThis.location?.href);
  made.searchParams.set(parameter, cursor);
  return made;
}

/** Waits `ms`; rejects with the signal's reason when that is aborted. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const abort = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(
      () => {
        signal.removeEventListener("abort", abort);
        resolve();
      },
      Math.min(ms, LONGEST_TIMER),
    );
    signal.addEventListener("abort", abort, { once: true });
  });
}
// ANCHOR_END: helpers
