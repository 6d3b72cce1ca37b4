// sse/event-source: an EventSource that survives refused requests, silence and the back/forward cache.
//
// Use it for GET streams with cookies, or with a ticket in the URL. For POST, an Authorization header, or a consumer
// slower than the server use `sse/connect.ts`: an EventSource reads as fast as the server writes. Components of React
// use `sse/use-event-stream.ts`.
// Guarantees: it ends at the terminal event, reconnects after a 503 (EventSource alone stays closed), after
// silence and out of the back/forward cache, and never without its cursor.

// ANCHOR: options
export interface SubscribeOptions {
  onState?(state: "connecting" | "open"): void;
  /** Names of the events to receive; `message` is the unnamed one. */
  types: readonly string[];
  /** An exception in it goes to `window.onerror`; the stream continues with the next event. */
  onEvent(event: MessageEvent<string>): void;
  /** The events after which nothing follows: `done`, `failed`. Each needs data, or it never fires. */
  lastTypes: readonly string[];
  /**
   * It is over: `done` after one of `lastTypes` or a 204; `refused` with a status that will not change, also with a 200
   * that is not an event stream: a login page, the page of a captive portal.
   */
  onEnd?(reason: "done" | "refused", status: number): void;
  /** Heartbeats must be events to be seen here: comments never reach JavaScript. */
  pingType?: string;
  /** Silence in ms after which it reconnects: three heartbeats. `Infinity`: never. */
  idleTimeout?: number;
  /**
   * After a connection that the browser has given up the next one is made after `minDelay` and a random time, whose bound is at first
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
type Target = string | URL;
// ANCHOR_END: options

// ANCHOR: subscribe
/**
 * If `url` is a function, it is called before each request (the browser then never reconnects on its own), because a
 * ticket in a URL is valid once. A function that throws is called again later.
 */
export function subscribe(url: Target | (() => Target | Promise<Target>), options: SubscribeOptions): Subscription {
  const {
    pingType = "ping",
    idleTimeout = 45_000,
    minDelay = 1_000,
    maxDelay = 30_000,
    stableAfter = 10_000,
    withCredentials = false,
  } = options;
  const types = new Set([...options.types, ...options.lastTypes, pingType]);
  // `event: error` from a server fires the listeners of the connection's own error event.
  if (types.has("error") || types.has("open")) throw new TypeError("error and open are EventSource's own event names");

  if (typeof url !== "function") new URL(url, document.baseURI); // a wrong URL is a mistake: it throws here

  let source: EventSource | undefined;
  let lastEventId = options.lastEventId ?? "";
  let failures = 0;
  let openedAt = Infinity;
  let timer: ReturnType<typeof setTimeout> | undefined; // one at a time: the watchdog, or the delay
  let attempt = new AbortController();

  const target = async (): Promise<URL> => {
    const to = new URL(typeof url === "function" ? await url() : url, document.baseURI);
    // A new object sends no Last-Event-ID. The server prefers the header to this parameter.
    if (lastEventId !== "") to.searchParams.set("lastEventId", lastEventId);
    return to;
  };
  // ANCHOR_END: subscribe

  // ANCHOR: open
  const open = async (): Promise<void> => {
    const { signal } = attempt;
    watch(Math.min(idleTimeout, 20_000));
    options.onState?.("connecting");
    const to = await target().catch(() => undefined);
    if (signal.aborted) return;
    if (to === undefined) return reopenLater();
    const current = new EventSource(to, { withCredentials });
    source = current;
    watch();
    current.addEventListener("open", () => {
      openedAt = performance.now();
      watch();
      options.onState?.("open");
    });
    for (const type of types) {
      current.addEventListener(type, (event: MessageEvent<string>) => {
        if (source !== current) return; // a queued event of an abandoned connection
        watch();
        // A handler that throws must not stop the cursor or the end.
        if (type !== pingType) queueMicrotask(() => options.onEvent(event));
        if (options.lastTypes.includes(type)) end("done", 200);
        // A new object has no id until an event brings one: a ping before that must not erase the cursor.
        if (event.lastEventId !== "") lastEventId = event.lastEventId;
      });
    }
    current.addEventListener("error", () => {
      if (source !== current) return;
      // CONNECTING: the browser retries, with the cursor and the same URL. CLOSED: it never retries.
      if (current.readyState === EventSource.CLOSED) void afterRefusal();
      else if (typeof url === "function") reopenLater();
      else options.onState?.("connecting");
    });
  };
  // ANCHOR_END: open

  // ANCHOR: watch
  const watch = (ms = idleTimeout): void => {
    clearTimeout(timer);
    if (ms < 2 ** 31) timer = setTimeout(reopenLater, ms); // setTimeout takes more for 1
  };

  const reopenLater = (): void => {
    stop();
    if (performance.now() - openedAt >= stableAfter) failures = 0; // not at once: servers flap
    openedAt = Infinity;
    timer = setTimeout(() => void open(), minDelay + Math.random() * Math.min(maxDelay, minDelay * 2 ** failures));
    failures += 1;
  };

  /** The error event does not contain the status, so one request by fetch finds it. */
  const afterRefusal = async (): Promise<void> => {
    stop();
    const { signal } = attempt;
    watch(Math.min(idleTimeout, 20_000)); // a server that accepts and hangs must not end it
    try {
      const credentials = withCredentials ? "include" : "same-origin";
      const response = await fetch(await target(), {
        headers: { accept: "text/event-stream" },
        credentials,
        cache: "no-store",
        signal,
      });
      void response.body?.cancel();
      if (signal.aborted) return;
      const { status } = response;
      if (status === 204) return end("done", status);
      const type = response.headers.get("content-type") ?? "";
      // What Chromium accepts: this type, with UTF-8 if a charset is named.
      const isStream = /^text\/event-stream\s*(;|$)/i.test(type) && !/charset=(?!"?utf-8)/i.test(type);
      if (status === 200 ? !isStream : !mayPass(status)) return end("refused", status);
    } catch {
      // The network failed, or stop() was called: the next attempt, if any, decides.
    }
    if (!signal.aborted) reopenLater();
  };
  // ANCHOR_END: watch

  // ANCHOR: stop
  const stop = (): void => {
    clearTimeout(timer);
    attempt.abort();
    attempt = new AbortController();
    source?.close();
    source = undefined;
  };

  const end = (reason: "done" | "refused", status: number): void => {
    close();
    queueMicrotask(() => options.onEnd?.(reason, status));
  };

  // An open connection keeps the page out of the back/forward cache, or is cut in it.
  const onPageShow = (event: PageTransitionEvent): void => {
    if (event.persisted) void open();
  };

  const close = (): void => {
    removeEventListener("pagehide", stop);
    removeEventListener("pageshow", onPageShow);
    stop();
  };

  addEventListener("pagehide", stop);
  addEventListener("pageshow", onPageShow);
  void open();
  return {
    get lastEventId() {
      return lastEventId;
    },
    close,
  };
}

/** For other statuses, a retry would get the same status; 520 to 530 come from CDNs that cannot reach their origin. */
function mayPass(status: number): boolean {
  return [408, 425, 429].includes(status) || (status >= 500 && status !== 501 && status !== 505);
}
// ANCHOR_END: stop
