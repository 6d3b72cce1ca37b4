// sse/event-stream: parses a `text/event-stream` body (HTML section 9.2.6).
//
// Use it where EventSource cannot go: POST, an Authorization header, a status to check, Node.
// Promise: the events that Chromium dispatches, whatever the chunks, each as soon as its blank line is complete.
// `sse/connect.ts` reconnects on top of it.

export interface ServerSentEvent {
  /** `message` unless the stream names it. */
  readonly type: string;
  readonly data: string;
  /** The last id seen so far: it stays the same over events without an id. */
  readonly lastEventId: string;
}

/** The peer sent a field or an event beyond the bound: the standard sets none, memory does. */
export class EventTooLargeError extends Error {
  override readonly name = "EventTooLargeError";
}

export interface ParserOptions {
  /** What an earlier connection ended with; browsers carry it over, so that ids stay sticky. */
  lastEventId?: string;
  /**
   * The most that the value of one field, and the data of one event with the line feeds between its lines, may have,
   * in UTF-16 code units (`data.length`). Comments count for nothing: they are not kept. 1,048,576 unless given.
   */
  maxEventSize?: number;
}

const LONGEST_NAME = "event: ".length; // `retry: ` is as long

export class EventStreamParser {
  /** The id of the last complete block, with data or without. Send it as `Last-Event-ID`. */
  lastEventId: string;
  /** The last `retry` of the server in milliseconds, as sent: clamp it before you use it. */
  retry: number | undefined;

  #line = "";
  #data: string[] = [];
  #dataSize = 0;
  #type = "";
  #id: string;
  #afterCr = false;
  readonly #maxEventSize: number;

  constructor({ lastEventId = "", maxEventSize = 1024 * 1024 }: ParserOptions = {}) {
    this.lastEventId = lastEventId;
    this.#id = lastEventId;
    this.#maxEventSize = maxEventSize;
  }

  // ANCHOR: push
  /**
   * Takes decoded text in pieces of any size, and yields the events that are complete, then throws `EventTooLargeError` if one
   * is too large. It parses while it is iterated, so finish the loop before the next call.
   */
  *push(text: string): Generator<ServerSentEvent, void, void> {
    let start = 0;
    // CRLF may be split over chunks. The CR has ended its line already: a parser that waits for the next byte would
    // hold the event back until the server sends again.
    if (this.#afterCr && text !== "") {
      this.#afterCr = false;
      if (text[0] === "\n") start = 1;
    }
    // Only CR, LF and CRLF end a line: U+2028 and U+2029 are data.
    for (const { index, 0: end } of text.matchAll(/\r\n|\r|\n/g)) {
      if (index < start) continue;
      this.#take(text.slice(start, index));
      start = index + end.length;
      if (end === "\r" && start === text.length) this.#afterCr = true;
      const line = this.#line;
      this.#line = "";
      if (line !== "") {
        this.#field(line);
        continue;
      }
      const event = this.#dispatch();
      if (event !== undefined) yield event;
    }
    this.#take(text.slice(start));
  }
  // ANCHOR_END: push

  #take(piece: string): void {
    this.#line += piece;
    if (this.#line.startsWith(":"))
      this.#line = ":"; // a comment, of any length
    else this.#check(this.#line.length - LONGEST_NAME);
  }

  #check(size: number): void {
    if (size > this.#maxEventSize) throw new EventTooLargeError(`over ${this.#maxEventSize} UTF-16 code units`);
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const name = colon === -1 ? line : line.slice(0, colon);
    let value = colon === -1 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1); // one space, no more
    this.#check(value.length);
    if (name === "data") {
      this.#dataSize += value.length + Math.min(this.#data.length, 1); // a line feed before each but the first
      this.#check(this.#dataSize);
      this.#data.push(value);
    } else if (name === "event") this.#type = value;
    else if (name === "id") {
      if (!value.includes("\0")) this.#id = value;
    } else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  // ANCHOR: dispatch
  #dispatch(): ServerSentEvent | undefined {
    // The id moves the cursor here, not at its line, so that a block that was cut is sent again.
    this.lastEventId = this.#id;
    // A block without a data line fires no event. One with an empty data line fires an event with data "".
    const fires = this.#data.length > 0;
    const event = { type: this.#type || "message", data: this.#data.join("\n"), lastEventId: this.#id };
    this.#data = [];
    this.#dataSize = 0;
    this.#type = "";
    return fires ? event : undefined;
  }
  // ANCHOR_END: dispatch
}

// ANCHOR: transform
/** Bytes in, events out, one for each read: `response.body.pipeThrough(eventStream())`. */
export function eventStream(options?: ParserOptions): ReadableWritablePair<ServerSentEvent, Uint8Array<ArrayBuffer>> {
  const parser = new EventStreamParser(options);
  // One decoder for the whole stream: it joins UTF-8 that chunks have split, replaces what is
  // not UTF-8 by U+FFFD, and removes one byte order mark.
  const decoder = new TextDecoder();
  const { readable: bytes, writable } = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>();
  const reader = bytes.getReader();
  let events = parser.push("");
  // Not a `transform` that enqueues all events of a chunk: its error would discard those that nobody has read yet.
  const readable = new ReadableStream<ServerSentEvent>(
    {
      async pull(controller) {
        try {
          for (;;) {
            const event = events.next();
            if (!event.done) return controller.enqueue(event.value);
            const { done, value } = await reader.read();
            // What follows the last blank line is an incomplete event, and is discarded.
            if (done) return controller.close();
            events = parser.push(decoder.decode(value, { stream: true }));
          }
        } catch (error) {
          void reader.cancel(error).catch(() => undefined);
          throw error;
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
  return { readable, writable };
}
// ANCHOR_END: transform

export const AN_HOUR = 3_600_000; // ms

/** `Retry-After` in ms: seconds or a date (RFC 9110, section 10.2.3), at most an hour. */
export function retryAfterMs(value: string | null, now = Date.now()): number {
  if (value === null) return 0;
  const ms = /^\d+$/.test(value.trim()) ? Number(value) * 1_000 : Date.parse(value) - now;
  return Number.isNaN(ms) ? 0 : Math.min(Math.max(ms, 0), AN_HOUR);
}
