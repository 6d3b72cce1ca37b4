// A bounded log of events in this process, which any number of responses read at their own pace.
//
// Promise: a reader has no queue of its own; a cursor that the log cannot continue from gets one `reset`.
import type { OutgoingEvent } from "@/streaming/sse/encode.ts";

export class EventLog {
  /** Part of every id: a cursor from before a restart must not fit by accident. */
  readonly #epoch = crypto.randomUUID().slice(0, 8);
  readonly #capacity: number;
  readonly #waiting = new Set<() => void>();
  #events: OutgoingEvent[] = [];
  /** Events that were dropped, so the number of the first one that is held. */
  #dropped = 0;
  #ended = false;
  /** Open readers. */
  readers = 0;

  constructor(capacity = 1_000) {
    this.#capacity = capacity;
  }

  /** Appends; `last` ends the log, and with it every stream. */
  publish(type: string, data: unknown, last = false): void {
    if (this.#ended) throw new Error("the log has ended");
    const id = `${this.#epoch}-${this.#dropped + this.#events.length + 1}`;
    this.#events.push({ type, data, id });
    if (this.#events.length > this.#capacity) {
      this.#events.shift();
      this.#dropped += 1;
    }
    this.#ended = last;
    for (const wake of this.#waiting) wake();
  }

  // ANCHOR: read
  /** Whether a client with this cursor has every event: then return 204, or EventSource reconnects forever. */
  isFinished(cursor: string | null): boolean {
    return this.#ended && this.#position(cursor) === this.#dropped + this.#events.length;
  }

  /** Yields the events after `cursor`, then each new one, until the last event or until `signal` aborts. */
  async *read(cursor: string | null, signal: AbortSignal): AsyncGenerator<OutgoingEvent, void, void> {
    let position = cursor === null ? 0 : this.#position(cursor);
    this.readers += 1;
    try {
      while (!signal.aborted) {
        if (position === undefined || position < this.#dropped) {
          position = this.#dropped;
          // This is also for a reader whose next event the log has dropped. The reset has no id: the next event moves
          // the cursor.
          yield { type: "reset", data: {} };
        } else if (position < this.#dropped + this.#events.length) {
          yield this.#events[position - this.#dropped]!;
          position += 1;
        } else if (this.#ended) return;
        else await this.#change(signal);
      }
    } finally {
      this.readers -= 1;
    }
  }

  /** Returns how many events a client with this cursor has had, or undefined if the log does not know the cursor. */
  #position(cursor: string | null): number | undefined {
    const [, epoch, digits] = /^([0-9a-f]{8})-([0-9]{1,15})$/.exec(cursor ?? "") ?? [];
    const position = Number(digits);
    return epoch === this.#epoch && position <= this.#dropped + this.#events.length ? position : undefined;
  }
  // ANCHOR_END: read

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        this.#waiting.delete(wake);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake, { once: true });
    });
  }
}
