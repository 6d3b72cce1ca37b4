// sse/live-state: a state that a server keeps and changes: a snapshot, then the events after its cursor.
//
// Use it for a live view on `production/snapshot.rs`, or any server whose snapshot has the id of its last event.
// Guarantees: each change is applied once and in order; after a `reset`, and when the snapshot cannot be continued, the
// state is loaded again, with a growing random delay. Needs `sse/connect.ts` and `sse/event-stream.ts`.

import { type ConnectOptions, connect, RetryLater, sleep } from "./connect.ts";
import type { ServerSentEvent } from "./event-stream.ts";

// ANCHOR: live-state
export interface LiveStateOptions<S> extends Omit<ConnectOptions, "lastEventId"> {
  /** Loads the state with the id of the last event that is in it. Called again after each reset, and when it throws `RetryLater`. */
  snapshot(signal: AbortSignal): Promise<{ cursor: string; state: S }>;
  /** The state after `event`. It must not change the old one. */
  apply(state: S, event: ServerSentEvent): S;
  /** The events that are not changes: the stream ends after `restart` and `stream_error`, and `connect` continues. */
  ignored?: readonly string[];
  /** The event after which the state is loaded again: `reset` unless given. */
  resetType?: string;
  /** The terminal events: no event follows them. */
  lastTypes?: readonly string[];
}

/**
 * Yields the state now and after each change, until one of `lastTypes` or a 204. Throws what `snapshot` and `apply`
 * throw, what `connect` throws, or `signal.reason`.
 */
export async function* liveState<S>(url: string | URL, options: LiveStateOptions<S>): AsyncGenerator<S, void, void> {
  const { snapshot, apply, resetType = "reset", lastTypes = ["done"], ...rest } = options;
  const { ignored = ["ping", "restart", "stream_error"] } = options;
  const { minDelay = 1_000, maxDelay = 30_000, signal } = rest;
  let resets = 0;
  for (;;) {
    const loaded = await snapshot(signal).catch((error: unknown) => {
      if (!(error instanceof RetryLater)) throw error;
    });
    if (loaded !== undefined) {
      let state = loaded.state;
      yield state;
      let reset = false;
      for await (const event of connect(url, { ...rest, lastEventId: loaded.cursor })) {
        if (ignored.includes(event.type)) continue;
        if (event.type === resetType) {
          reset = true;
          break;
        }
        state = apply(state, event);
        resets = 0;
        yield state;
        if (lastTypes.includes(event.type)) return;
      }
      if (!reset) return;
    }
    // All pages are reset together when a server restarts, and a snapshot costs the server more than an event.
    const bound = Math.min(maxDelay, minDelay * 2 ** Math.min(resets++, 10));
    await sleep(Math.random() * bound, signal);
  }
}
// ANCHOR_END: live-state
