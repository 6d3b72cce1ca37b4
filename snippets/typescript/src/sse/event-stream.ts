// sse/event-stream: reads a `text/event-stream` body, as HTML section 9.2.6 has it.
//
// Use it where EventSource cannot go: POST, an Authorization header, a status to look at, Node.
// Promise: the events that Chromium dispatches, whatever the chunks, each as soon as its blank line is complete.
// `sse/connect.ts` reconnects on top of it.

// ANCHOR: parser
export interface ServerSentEvent {
  /** `message` unless the stream names it. */
  readonly type: string;
  readonly data: string;
  /** The last id seen so far: it stays the same over events without an id. */
  readonly lastEventId: string;
}

/** The peer sent a line or an event beyond the bound: the standard sets none, memory does. */
export class EventTooLargeError extends Error {
  override readonly name = "EventTooLargeError";
}

export interface ParserOptions {
  /** What an earlier connection ended with; browsers carry it over, so that ids stay sticky. */
  lastEventId?: string;
  /** Bound of one line, and of the data of one event, in UTF-16 code units. */
  maxEventSize?: number;
}

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

  /** Takes decoded text, in pieces of any size; gives the events that are complete now. */
  push(text: string): ServerSentEvent[] {
    const events: ServerSentEvent[] = [];
    let start = 0;
    // CRLF may be split over chunks. The CR has ended its line already: waiting for the next
    // byte would hold the event back until the server speaks again.
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
      if (line !== "") this.#field(line);
      else this.#dispatch(events);
    }
    this.#take(text.slice(start));
    return events;
  }

  #take(piece: string): void {
    this.#line += piece;
    if (this.#line.length > this.#maxEventSize) throw new EventTooLargeError(`a line over ${this.#maxEventSize}`);
  }

  #field(line: string): void {
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const name = colon === -1 ? line : line.slice(0, colon);
    let value = colon === -1 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1); // one space, no more
    if (name === "data") {
      this.#dataSize += value.length + 1;
      if (this.#dataSize > this.#maxEventSize) throw new EventTooLargeError(`an event over ${this.#maxEventSize}`);
      this.#data.push(value);
    } else if (name === "event") this.#type = value;
    else if (name === "id") {
      if (!value.includes("\0")) this.#id = value;
    } else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch(events: ServerSentEvent[]): void {
    // The id counts from here, not from its line: a block that was cut must be sent again.
    this.lastEventId = this.#id;
    // No data line at all: nothing fires. An empty one: an event with data "".
    if (this.#data.length > 0) {
      events.push({ type: this.#type || "message", data: this.#data.join("\n"), lastEventId: this.#id });
    }
    this.#data = [];
    this.#dataSize = 0;
    this.#type = "";
  }
}
// ANCHOR_END: parser

// ANCHOR: transform
/** Bytes in, events out: `response.body.pipeThrough(eventStream())`. */
export function eventStream(options?: ParserOptions): TransformStream<Uint8Array<ArrayBuffer>, ServerSentEvent> {
  const parser = new EventStreamParser(options);
  // One decoder for the whole stream: it joins UTF-8 that chunks have split, replaces what is
  // not UTF-8 by U+FFFD, and removes one byte order mark.
  const decoder = new TextDecoder();
  return new TransformStream({
    transform(chunk, controller) {
      for (const event of parser.push(decoder.decode(chunk, { stream: true }))) controller.enqueue(event);
    },
    // No flush(): what follows the last blank line is an incomplete event, and is discarded.
  });
}
// ANCHOR_END: transform
