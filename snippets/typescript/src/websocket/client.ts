// websocket/client: a WebSocket that comes back, resumes, and knows when it is dead.
//
// Use it in browsers and Node. What is sent through it may be lost: commands go through `websocket/outbox.ts`,
// a producer faster than this consumer needs `websocket/flow.ts`.
// Promise: one connection at a time, messages handled one after the other in their order, no event of an earlier
// connection, nothing after close().

// ANCHOR: options
export type Data = string | ArrayBuffer;

export interface ClientOptions {
  /** Asked before each attempt: a ticket in the URL is valid once. */
  url: () => string | URL | Promise<string | URL>;
  /** The versions of the schema that this client speaks. */
  protocols?: string[];
  /** Each new connection begins here: authenticate, subscribe, say after which message to resume. */
  onOpen(client: WebSocketClient): void;
  /** Awaited before the next message is handled; a resumed connection may bring one again. */
  onMessage(data: Data): void | Promise<void>;
  /** `stopped` is final: the server's code says so, close() was called, or there is an error of ours. */
  onState?(state: "connecting" | "open" | "waiting" | "stopped", code?: number, error?: unknown): void;
  /** What the server answers with any message. Browsers neither expose nor send protocol pings. */
  heartbeat?: () => string;
  /** Time in ms between heartbeats; after two without any message the connection is given up. */
  heartbeatEvery?: number;
  /** Codes after which asking again is pointless: policy, not authenticated, not allowed. */
  finalCodes?: readonly number[];
  /** Bounds of the delay between attempts in ms. */
  minDelay?: number;
  maxDelay?: number;
  /** How long in ms a connection must live before the delay starts again from `minDelay`. */
  stableAfter?: number;
  /** Bytes that may wait in the browser's own queue, which has no bound. */
  maxBuffered?: number;
  /** Messages that may wait for `onMessage`; beyond it the connection is closed and resumed. */
  maxPending?: number;
}
// ANCHOR_END: options

// ANCHOR: client
export class WebSocketClient {
  readonly #options: Required<Omit<ClientOptions, "heartbeat" | "onState">> &
    Pick<ClientOptions, "heartbeat" | "onState">;
  readonly #stopListening = new AbortController();
  #socket: WebSocket | undefined;
  /** Counts connections: what belongs to an earlier one is ignored. */
  #generation = 0;
  #failures = 0;
  #openedAt = Infinity;
  #lastHeard = 0;
  #pending: Data[] = [];
  #handling = false;
  #timer: ReturnType<typeof setTimeout> | undefined; // one at a time: the delay, or the heartbeat
  #stopped = false;

  constructor(options: ClientOptions) {
    this.#options = {
      protocols: [],
      heartbeatEvery: 15_000,
      finalCodes: [1008, 4401, 4403],
      minDelay: 1_000,
      maxDelay: 30_000,
      stableAfter: 10_000,
      maxBuffered: 1024 * 1024,
      maxPending: 1_000,
      ...options,
    };
    // Timers of a hidden page are slow and a laptop that wakes does not know what it has missed.
    const wake = (): void => this.#wake();
    const { signal } = this.#stopListening;
    globalThis.addEventListener?.("online", wake, { signal });
    globalThis.document?.addEventListener("visibilitychange", () => document.visibilityState === "visible" && wake(), {
      signal,
    });
    void this.#connect();
  }

  /**
   * Hands `data` to the browser. False: not open, or too much is waiting there already. True does not mean that
   * it arrives: a socket that is closing takes data and drops it without a word.
   */
  send(data: string | ArrayBufferView<ArrayBuffer> | ArrayBuffer): boolean {
    const socket = this.#socket;
    if (socket?.readyState !== WebSocket.OPEN || socket.bufferedAmount > this.#options.maxBuffered) return false;
    socket.send(data);
    return true;
  }

  close(code = 1000, reason = ""): void {
    this.#stop(code);
    this.#abandon(code, reason);
  }

  async #connect(): Promise<void> {
    const generation = ++this.#generation;
    this.#options.onState?.("connecting");
    let socket: WebSocket;
    try {
      const url = await this.#options.url();
      if (generation !== this.#generation) return; // closed meanwhile
      socket = new WebSocket(url, this.#options.protocols);
    } catch (error) {
      // A URL or protocol that can never work is a mistake; a ticket that could not be had is the network.
      if (error instanceof DOMException && error.name === "SyntaxError") this.#stop(1000, error);
      return this.#retry(generation);
    }
    this.#socket = socket;
    socket.binaryType = "arraybuffer"; // a Blob would have to be read asynchronously: messages overtake each other
    socket.onopen = () => {
      if (generation !== this.#generation) return;
      this.#openedAt = this.#lastHeard = performance.now();
      this.#options.onState?.("open");
      this.#beat(generation);
      this.#options.onOpen(this);
    };
    socket.onmessage = (event: MessageEvent<Data>) => {
      if (generation !== this.#generation) return;
      this.#lastHeard = performance.now();
      this.#pending.push(event.data);
      // The browser reads on whatever this side does. Resuming costs less than running out of memory.
      if (this.#pending.length > this.#options.maxPending) return this.#lost(generation, 4008);
      void this.#handle();
    };
    // `error` says nothing; `close` follows it.
    socket.onclose = ({ code }) => this.#lost(generation, code);
  }

  async #handle(): Promise<void> {
    if (this.#handling) return;
    this.#handling = true;
    try {
      while (this.#pending.length > 0) await this.#options.onMessage(this.#pending.shift()!);
    } catch (error) {
      // Going on would skip a message, and move the cursor past it.
      this.#stop(4000, error);
      this.#abandon(4000, "handler failed");
    } finally {
      this.#handling = false;
    }
  }

  /** Any message counts as a sign of life; two intervals without one, and the network is gone. */
  #beat(generation: number): void {
    const { heartbeat, heartbeatEvery } = this.#options;
    if (heartbeat === undefined) return;
    clearTimeout(this.#timer);
    if (performance.now() - this.#lastHeard >= 2 * heartbeatEvery) {
      this.#lost(generation, 1006);
      return;
    }
    this.send(heartbeat());
    this.#timer = setTimeout(() => this.#beat(generation), heartbeatEvery);
  }

  #lost(generation: number, code: number): void {
    if (generation !== this.#generation || this.#stopped) return;
    // Not awaited: the closing handshake of a dead connection takes the browser a minute.
    this.#abandon(code >= 4000 ? code : 1000, "");
    if (this.#options.finalCodes.includes(code)) this.#stop(code);
    else this.#retry(this.#generation);
  }

  #retry(generation: number): void {
    if (generation !== this.#generation || this.#stopped) return;
    const { minDelay, maxDelay, stableAfter } = this.#options;
    // Not at once: a server that accepts and closes would be asked at full speed.
    if (performance.now() - this.#openedAt >= stableAfter) this.#failures = 0;
    this.#openedAt = Infinity;
    // Full jitter, so that the clients of a restarted server do not return together.
    const delay = Math.random() * Math.min(maxDelay, minDelay * 2 ** this.#failures++);
    this.#options.onState?.("waiting");
    this.#timer = setTimeout(() => void this.#connect(), delay);
  }

  #wake(): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#beat(this.#generation);
    else if (this.#socket === undefined && !this.#stopped) {
      clearTimeout(this.#timer);
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

  #stop(code: number, error?: unknown): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#stopListening.abort();
    this.#options.onState?.("stopped", code, error);
  }
}
// ANCHOR_END: client
