// websocket/client: a WebSocket that reconnects, resumes, and detects a dead connection.
//
// Use it in browsers and Node. What is sent through it may be lost: commands go through `websocket/outbox.ts`,
// a producer faster than this consumer needs `websocket/flow.ts`, components of React `websocket/use-websocket.ts`.
// Guarantees: one connection at a time, messages handled one after the other in their order, no event of an earlier
// connection, nothing after close(). A hidden tab, whose timers run once a minute, keeps a healthy connection.

// ANCHOR: options
export type Data = string | ArrayBuffer;

// ANCHOR: codes
/** `later` starts with a delay eight times as long. */
export type AfterClose = "stop" | "retry" | "later";

/** What follows a close code; codes that are not listed, such as 1001, 1006 and 1012, are `retry`. */
export const CLOSE_CODES: Readonly<Record<number, AfterClose>> = {
  1008: "stop", // policy: this client sends malformed messages, and would do so again
  4401: "stop", // not authenticated: log in
  4403: "stop", // authenticated, and not allowed
  4408: "retry", // the session, ticket or time for the first message has expired: `url` fetches a new ticket
  1013: "later", // overloaded, or too many messages
  4029: "later", // too many messages
};
// ANCHOR_END: codes

/** For a server that reads a token first: until it accepts that, the client is `connecting`, within `handshakeTimeout`. */
export interface Admission {
  /** The first message of each connection. */
  request(): string;
  /** Whether `data` accepts it. `onOpen` follows, and `onMessage` does not get this message. A refusal is a close code. */
  isAccepted(data: Data): boolean;
}

export interface ClientOptions {
  /** Called before each attempt: a ticket in the URL is valid once. */
  url: () => string | URL | Promise<string | URL>;
  /** The versions of the schema that this client speaks. */
  protocols?: string[];
  admission?: Admission;
  /** Sends the first messages of each connection: authenticate, subscribe, say after which message to resume. */
  onOpen(client: WebSocketClient): void;
  /** Awaited before the next message is handled; a resumed connection may bring one again. */
  onMessage(data: Data): void | Promise<void>;
  /** `waiting` has the close code, if there was one. `stopped` is final: the close code says so, close() was called, or `error` was thrown here. */
  onState?(state: ClientState, code?: number, error?: unknown): void;
  /** What the server answers with any message. Browsers neither expose nor send protocol pings. */
  heartbeat?: () => string;
  /** Time in ms between heartbeats; one that is not answered by any message before the next ends the connection. */
  heartbeatEvery?: number;
  /** Time limit in ms for `url` and the handshake together: browsers and Node set none. */
  handshakeTimeout?: number;
  /** Added to `CLOSE_CODES`, or in place of its entries. */
  closeCodes?: Readonly<Record<number, AfterClose>>;
  /** Each delay is `minDelay` and a random time, whose bound doubles from `minDelay` to `maxDelay`. In ms. */
  minDelay?: number;
  maxDelay?: number;
  /** How long in ms a connection must live before the delay restarts from `minDelay`. */
  stableAfter?: number;
  /** Bytes that may wait in the browser's own queue, which has no bound. */
  maxBuffered?: number;
  /** Messages that may wait for `onMessage`; beyond it the connection is closed and resumed. */
  maxPending?: number;
}

export type ClientState = "connecting" | "open" | "waiting" | "stopped";
// ANCHOR_END: options

// ANCHOR: client
export class WebSocketClient {
  readonly #options: Required<Omit<ClientOptions, "admission" | "heartbeat" | "onState">> &
    Pick<ClientOptions, "admission" | "heartbeat" | "onState">;
  readonly #stopListening = new AbortController();
  #state: ClientState = "waiting";
  #socket: WebSocket | undefined;
  /** Counts connections: what belongs to an earlier one is ignored. */
  #generation = 0;
  #failures = 0;
  #openedAt = Infinity;
  /** Heartbeats sent since the last message came, and when the next one is due. */
  #unanswered = 0;
  #beatDue = 0;
  #pending: Data[] = [];
  #handling = false;
  #timer: ReturnType<typeof setTimeout> | undefined; // one at a time: the delay, the handshake, or the heartbeat

  constructor(options: ClientOptions) {
    this.#options = {
      protocols: [],
      heartbeatEvery: 15_000,
      handshakeTimeout: 10_000,
      minDelay: 1_000,
      maxDelay: 30_000,
      stableAfter: 10_000,
      maxBuffered: 1024 * 1024,
      maxPending: 1_000,
      ...options,
      closeCodes: { ...CLOSE_CODES, ...options.closeCodes },
    };
    const { signal } = this.#stopListening;
    globalThis.addEventListener?.("online", () => this.#wake(true), { signal });
    // The timers of a hidden page are late.
    const onVisible = (): void => void (document.visibilityState === "visible" && this.#wake(false));
    globalThis.document?.addEventListener("visibilitychange", onVisible, { signal });
    void this.#connect();
  }

  get state(): ClientState {
    return this.#state;
  }

  /**
   * Hands `data` to the browser. False: not open, or too much is waiting there already. True does not mean that
   * it arrives: a socket that is closing takes data and drops it silently.
   */
  send(data: string | ArrayBufferView<ArrayBuffer> | ArrayBuffer): boolean {
    const socket = this.#socket;
    if (this.#state !== "open" || socket?.readyState !== WebSocket.OPEN) return false;
    if (socket.bufferedAmount > this.#options.maxBuffered) return false;
    socket.send(data);
    return true;
  }

  close(code = 1000, reason = ""): void {
    this.#stop(code);
    this.#abandon(code, reason);
  }

  async #connect(): Promise<void> {
    const generation = ++this.#generation;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost(generation, 1006), this.#options.handshakeTimeout);
    this.#say("connecting");
    let socket: WebSocket;
    try {
      const url = await this.#options.url();
      if (generation !== this.#generation) return; // closed or given up meanwhile
      socket = new WebSocket(url, this.#options.protocols);
    } catch (error) {
      // A URL or protocol that can never work is a mistake; a ticket that could not be had is the network.
      if (error instanceof DOMException && error.name === "SyntaxError") this.#stop(1000, error);
      this.#retry(generation);
      return;
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer"; // a Blob is read asynchronously, so messages would overtake each other
    // ANCHOR: events
    const { admission } = this.#options;
    socket.onopen = () => {
      if (generation !== this.#generation) return;
      if (admission === undefined) this.#opened(generation);
      else this.#try(() => socket.send(admission.request()));
    };
    socket.onmessage = (event: MessageEvent<Data>) => {
      if (generation !== this.#generation) return;
      this.#unanswered = 0;
      let accepted: boolean | undefined;
      if (this.#state === "connecting") this.#try(() => void (accepted = admission?.isAccepted(event.data)));
      if (accepted) return this.#opened(generation);
      this.#pending.push(event.data);
      // The browser continues to read even if this side does not keep up. Resuming costs less than running out of
      // memory.
      if (this.#pending.length > this.#options.maxPending) this.#lost(generation, 4008);
      else void this.#handle();
    };
    socket.onerror = () => undefined; // has no details, and `close` follows; the package `ws` throws without a listener
    socket.onclose = ({ code }) => this.#lost(generation, code);
    // ANCHOR_END: events
  }

  #opened(generation: number): void {
    this.#openedAt = performance.now();
    this.#unanswered = 0;
    this.#nextBeat(generation);
    this.#say("open");
    // Before any heartbeat: the first message may have to authenticate.
    this.#try(() => this.#options.onOpen(this));
  }

  async #handle(): Promise<void> {
    if (this.#handling) return;
    this.#handling = true;
    try {
      while (this.#pending.length > 0) await this.#options.onMessage(this.#pending.shift()!);
    } catch (error) {
      this.#fail(error); // going on would skip a message, and move the cursor past it
    } finally {
      this.#handling = false;
    }
  }

  #nextBeat(generation: number): void {
    const { heartbeat, heartbeatEvery } = this.#options;
    clearTimeout(this.#timer);
    if (heartbeat === undefined) return;
    this.#beatDue = performance.now() + heartbeatEvery;
    this.#timer = setTimeout(() => this.#beat(generation, heartbeat), heartbeatEvery);
  }

  // ANCHOR: beat
  /** Checks that the last heartbeat, which had a full interval, was answered, and sends the next. */
  #beat(generation: number, heartbeat: () => string): void {
    if (generation !== this.#generation) return;
    // After a late timer (a frozen page), one more heartbeat is sent first.
    const late = performance.now() - this.#beatDue > this.#options.heartbeatEvery / 2;
    if (this.#unanswered >= (late ? 2 : 1)) {
      this.#lost(generation, 1006);
      return;
    }
    // Even if data waits in the queue: a queue that does not move is a dead connection.
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(heartbeat());
    this.#unanswered += 1;
    this.#nextBeat(generation);
  }
  // ANCHOR_END: beat

  // ANCHOR: lost
  #lost(generation: number, code: number): void {
    if (generation !== this.#generation || this.#state === "stopped") return;
    // Not awaited: the closing handshake of a dead connection takes the browser a minute.
    this.#abandon(code >= 4000 ? code : 1000, "");
    const next = this.#options.closeCodes[code] ?? "retry";
    if (next === "stop") this.#stop(code);
    else this.#retry(this.#generation, next === "later" ? 3 : 0, code);
  }

  #retry(generation: number, more = 0, code?: number): void {
    if (generation !== this.#generation || this.#state === "stopped") return;
    const { minDelay, maxDelay, stableAfter } = this.#options;
    // Not immediately: a server that accepts and closes would be called at full speed.
    if (performance.now() - this.#openedAt >= stableAfter) this.#failures = 0;
    this.#openedAt = Infinity;
    // Random, so that the clients of a restarted server do not return together.
    const bound = Math.min(maxDelay, minDelay * 2 ** (this.#failures + more));
    this.#failures += 1;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#connect(), minDelay + Math.random() * bound);
    this.#say("waiting", code);
  }

  // ANCHOR_END: lost

  /** The network or the page is back: a wait ends, and an open connection proves that it lives. */
  #wake(networkChanged: boolean): void {
    const { heartbeat } = this.#options;
    if (this.#state === "open") {
      const due = this.#unanswered === 0 || performance.now() >= this.#beatDue;
      if (due && heartbeat !== undefined) this.#beat(this.#generation, heartbeat);
    } else if (this.#state === "waiting" || (this.#state === "connecting" && networkChanged)) {
      this.#abandon(1000, "");
      void this.#connect();
    }
  }

  #abandon(code: number, reason: string): void {
    this.#generation += 1;
    clearTimeout(this.#timer);
    // What waits has arrived, but was not handled: the resumed connection brings it again.
    this.#pending.length = 0;
    this.#socket?.close(code, reason); // browsers take 1000 and 3000 to 4999 only
    this.#socket = undefined;
  }

  #try(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    this.#stop(4000, error);
    this.#abandon(4000, "handler failed");
  }

  #stop(code: number, error?: unknown): void {
    if (this.#state === "stopped") return;
    clearTimeout(this.#timer);
    this.#stopListening.abort();
    this.#say("stopped", code, error);
  }

  #say(state: ClientState, code?: number, error?: unknown): void {
    this.#state = state;
    this.#options.onState?.(state, code, error);
  }
}
// ANCHOR_END: client
