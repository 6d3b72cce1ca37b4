// sse/use-event-stream: an event stream for React components, one connection for all of them.
//
// Use it in pages that show one stream in several places. Goes with `sse/event-source.ts` and `streams/shared-store.ts`;
// for the answer of a model use `llm/use-token-stream.tsx`.
// Guarantees: those of both; a stream that has ended is not opened again, and one that is opened again after its
// components were away continues after the last event.

// ANCHOR: use
import { SharedStore, useShared } from "../streams/shared-store.ts";
import { type SubscribeOptions, type Subscription, subscribe } from "./event-source.ts";

export interface StreamState<S> {
  readonly status: "connecting" | "open" | "done" | "refused";
  /** The HTTP status that ended the stream permanently. */
  readonly code?: number;
  readonly data: S;
}

export interface StreamOptions<S> extends Omit<SubscribeOptions, "onEvent" | "onState" | "onEnd"> {
  initial: S;
  /** Returns a new value, or the same one if nothing changes. Bounds what it collects. */
  reduce(data: S, event: MessageEvent<string>): S;
  lingerMs?: number;
}

/** Call it once, outside of components: `export const prices = createEventStream("/prices", { … })`. */
export function createEventStream<S>(
  url: Parameters<typeof subscribe>[0],
  { initial, reduce, lingerMs, ...options }: StreamOptions<S>,
): SharedStore<StreamState<S>> {
  let lastEventId = options.lastEventId ?? "";
  let ended = false;
  const open = (): (() => void) => {
    if (ended) return () => undefined;
    const subscription: Subscription = subscribe(url, {
      ...options,
      lastEventId,
      onState: (status) => store.update((state) => (state.status === status ? state : { ...state, status })),
      onEvent: (event) => {
        store.update((state) => {
          const data = reduce(state.data, event);
          return Object.is(data, state.data) ? state : { ...state, data };
        });
      },
      onEnd: (status, code) => {
        ended = true;
        store.update((state) => ({ ...state, status, code }));
      },
    });
    return () => {
      lastEventId = subscription.lastEventId;
      subscription.close();
    };
  };
  const store = new SharedStore<StreamState<S>>({ status: "connecting", data: initial }, open, lingerMs);
  return store;
}

/** `const price = useEventStream(prices, ({ data }) => data.btc)`: renders only when that part changes. */
export const useEventStream: <S, T>(store: SharedStore<StreamState<S>>, select: (state: StreamState<S>) => T) => T =
  useShared;
// ANCHOR_END: use
