// sse/event-source: the browser's EventSource, with what it leaves to the page.
//
// Use it for GET streams with cookies. For POST, an Authorization header, or a consumer slower than the
// server use `sse/connect.ts`: an EventSource reads as fast as the server writes.
// Promise: it ends at the terminal event, comes back after a 503 (EventSource alone stays closed), after
// silence and out of the back/forward cache, and never without its cursor.

// ANCHOR: options
export interface SubscribeOptions {
  /** Names of the events to receive; `message` is the unnamed one. */
  types: readonly string[];
  onEvent(event: MessageEvent<string>): void;
  /** The events after which nothing follows: `done`, `failed`. Each needs data, or it never fires. */
  lastTypes: readonly string[];
  /** It is over: `done` after one of `lastTypes` or a 204, `refused` with the status that will not change. */
  onEnd?(reason: "done" | "refused", status: number): void;
  /** Heartbeats must be events to be seen here: comments never reach JavaScript. */
  pingType?: string;
  /** Silence in ms after which the connection is made anew: three heartbeats. `Infinity`: never. */
  idleTimeout?: number;
  /**
   * A connection that the browser has given up is made anew after `minDelay` and a random time, whose bound is at first
   * `minDelay`, doubles with each failure, and ends at `maxDelay`. In ms.
   */
  minDelay?: number;
  maxDelay?: number;
  /** How long in ms a connection must live before that delay starts again from `minDelay`. */
  stableAfter?: number;
  withCredentials?: boolean;
  lastEventId?: string;
}

export interface Subscription {
  readonly lastEventId: string;
  close(): void;
}
// ANCHOR_END: options

// ANCHOR: subscribe
export function subscribe(url: string | URL, options: SubscribeOptions): Subscription {
  const {
    pingType = "ping",
    idleTimeout = 45_000,
    minDelay = 1_000,
    maxDelay = 30_000,
    stableAfter = 10_000,
    withCredentials = false,
  } = options;
  const types = new Set([...options.types, ...options.lastTypes, pingType]);
  // `event: error` of a server fires the listeners of the connection's own error event.
  if (types.has("error") || types.has("open")) throw new TypeError("error and open are EventSource's own event names");

  let source: EventSource | undefined;
  let lastEventId = options.lastEventId ?? "";
  let failures = 0;
  let openedAt = Infinity;
  let timer: ReturnType<typeof setTimeout> | undefined; // one at a time: the watchdog, or the delay
  let probe = new AbortController();

  const target = (): URL => {
    const to = new URL(url, document.baseURI);
    // A new object sends no Last-Event-ID. The server takes the header first, then this.
    if (lastEventId !== "") to.searchParams.set("lastEventId", lastEventId);
    return to;
  };

  const open = (): void => {
    const current = new EventSource(target(), { withCredentials });
    source = current;
    watch();
    current.addEventListener("open", () => {
      openedAt = performance.now();
      watch();
    });
    for (const type of types) {
      current.addEventListener(type, (event: MessageEvent<string>) => {
        if (source !== current) return; // a queued event of a connection that was given up
        watch();
        if (options.lastTypes.includes(type)) end("done", 200);
        // A handler that throws must not stop the cursor or the end.
        if (type !== pingType) queueMicrotask(() => options.onEvent(event));
        // A new object knows no id until an event brings one: a ping before that must not erase ours.
        if (event.lastEventId !== "") lastEventId = event.lastEventId;
      });
    }
    current.addEventListener("error", () => {
      // CONNECTING: the browser retries by itself, with the cursor. CLOSED: it never will.
      if (source === current && current.readyState === EventSource.CLOSED) void afterRefusal();
    });
  };

  const watch = (): void => {
    clearTimeout(timer);
    if (idleTimeout < 2 ** 31) timer = setTimeout(reopenLater, idleTimeout); // setTimeout takes more for 1
  };

  const reopenLater = (): void => {
    stop();
    if (performance.now() - openedAt >= stableAfter) failures = 0; // not at once: servers flap
    openedAt = Infinity;
    timer = setTimeout(open, minDelay + Math.random() * Math.min(maxDelay, minDelay * 2 ** failures));
    failures += 1;
  };

  /** The error event says nothing of the status: one request by fetch does. */
  const afterRefusal = async (): Promise<void> => {
    stop();
    const { signal } = probe;
    try {
      const credentials = withCredentials ? "include" : "same-origin";
      const response = await fetch(target(), {
        headers: { accept: "text/event-stream" },
        credentials,
        cache: "no-store",
        signal,
      });
      void response.body?.cancel();
      const { status } = response;
      if (status === 204) return end("done", status);
      if (status >= 400 && status < 500 && ![408, 425, 429].includes(status)) return end("refused", status);
    } catch {
      // The network, or stop(): the next attempt, if there is one, will tell.
    }
    if (!signal.aborted) reopenLater();
  };

  const stop = (): void => {
    clearTimeout(timer);
    probe.abort();
    probe = new AbortController();
    source?.close();
    source = undefined;
  };

  const end = (reason: "done" | "refused", status: number): void => {
    close();
    queueMicrotask(() => options.onEnd?.(reason, status));
  };

  // An open connection keeps the page out of the back/forward cache, or is cut in it.
  const onPageShow = (event: PageTransitionEvent): void => {
    if (event.persisted) open();
  };

  const close = (): void => {
    removeEventListener("pagehide", stop);
    removeEventListener("pageshow", onPageShow);
    stop();
  };

  addEventListener("pagehide", stop);
  addEventListener("pageshow", onPageShow);
  open();
  return {
    get lastEventId() {
      return lastEventId;
    },
    close,
  };
}
// ANCHOR_END: subscribe
