// streams/shared-store: one connection for all components of a page, as a store for React.
//
// Use it through `sse/use-event-stream.ts` and `websocket/use-websocket.ts`. React 18 and later.
// Guarantees: the connection is opened by the first component that uses it and closed `lingerMs` after the last, so
// that StrictMode and a change of route keep it; what the stream has built stays in the store. Components render at
// most once for each frame, and not while the page is hidden. Nothing connects on the server.

import { useSyncExternalStore } from "react";

export class SharedStore<S> {
  readonly #initial: S;
  readonly #open: () => () => void;
  readonly #lingerMs: number;
  readonly #listeners = new Set<() => void>();
  #state: S;
  #close: (() => void) | undefined;
  #linger: ReturnType<typeof setTimeout> | undefined;
  #notifying = false;

  /** `open` connects and returns how to close. */
  constructor(initial: S, open: () => () => void, lingerMs = 1_000) {
    this.#initial = initial;
    this.#state = initial;
    this.#open = open;
    this.#lingerMs = lingerMs;
  }

  // ANCHOR: subscribe
  // Fields, not methods: React calls them without the object, and must get the same function each time.
  readonly subscribe = (listener: () => void): (() => void) => {
    clearTimeout(this.#linger);
    this.#listeners.add(listener);
    this.#close ??= this.#open();
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      clearTimeout(this.#linger);
      // StrictMode unmounts and mounts again immediately, as does a change to a route that shows the same stream.
      this.#linger = setTimeout(() => {
        this.#close?.();
        this.#close = undefined;
      }, this.#lingerMs);
    };
  };

  /** Returns the same object until the state changes; otherwise React would render endlessly. */
  readonly getSnapshot = (): S => this.#state;
  readonly getServerSnapshot = (): S => this.#initial;

  /** Whether a component uses it, or did within `lingerMs`. */
  get isOpen(): boolean {
    return this.#close !== undefined;
  }

  update(change: (state: S) => S): void {
    const next = change(this.#state);
    if (Object.is(next, this.#state)) return;
    this.#state = next;
    if (this.#notifying) return;
    this.#notifying = true;
    // Runs once per frame, however many events arrived; a hidden page has no frames.
    (globalThis.requestAnimationFrame ?? setTimeout)(() => {
      this.#notifying = false;
      for (const listener of this.#listeners) listener();
    });
  }
  // ANCHOR_END: subscribe
}

/**
 * One store per key: `const order = keyed((id) => createEventStream("/orders/" + id, …))` outside of components, and
 * `useEventStream(order(id), …)` in them. Keeps `most` stores, and more only while components use more.
 */
export function keyed<S>(create: (key: string) => SharedStore<S>, most = 100): (key: string) => SharedStore<S> {
  const stores = new Map<string, SharedStore<S>>();
  return (key) => {
    const store = stores.get(key) ?? create(key);
    stores.delete(key); // and to the end: the first is the one that was not asked for longest
    stores.set(key, store);
    for (const [other, { isOpen }] of stores) {
      if (stores.size <= most) break;
      if (!isOpen && other !== key) stores.delete(other);
    }
    return store;
  };
}

/** The part of the state that `select` takes; it must give the same value for the same state: no new objects. */
export function useShared<S, T>(store: SharedStore<S>, select: (state: S) => T): T {
  return useSyncExternalStore(
    store.subscribe,
    () => select(store.getSnapshot()),
    () => select(store.getServerSnapshot()),
  );
}
