// websocket/node-server: a WebSocket server on `ws` for Node, with the limits that `ws` leaves to you.
//
// Use it if the service is a Node process. Needs `ws` 8; goes with `websocket/client.ts` in the page. In Next.js run it
// in a process of its own: route handlers have no sockets.
// Guarantees: only pages of `origins` connect; each connection has a user before its first message is handled; messages
// are handled one at a time in order, and no faster than `messagesPerSecond`: beyond that the socket is not read;
// every queue is bounded; a peer that has disappeared is closed after two pings; shutdown closes with 1001.

// ANCHOR: options
import type { IncomingMessage, Server } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";

export interface Session<U> {
  /** One user, however many connections. */
  id: string;
  user: U;
  /** `Date.now()` at which the session ends; the socket is closed with 4408 then. */
  expiresAt?: number;
}

export interface ServerOptions<U> {
  path: string;
  /** Origins of the pages that may connect, such as `https://app.example`. Clients that are no browser send none. */
  origins: readonly string[];
  /** Versions of your schema, the preferred one first. A client must offer one of them, unless the list is empty. */
  protocols?: readonly string[];
  /** Reads a ticket or cookie of the request. Undefined: `authenticateMessage` decides by the first message. */
  authenticate(request: IncomingMessage): Promise<Session<U> | undefined>;
  authenticateMessage?(first: string): Promise<Session<U> | undefined>;
  onOpen?(client: Client<U>): void;
  /** Awaited before the next message is handled. If it throws, the connection is closed with 1011. */
  onMessage(client: Client<U>, data: string | Buffer): void | Promise<void>;
  onClose?(client: Client<U>, code: number): void;
  /** For the log; never sent to the peer. */
  onError?(error: unknown): void;
  maxConnections?: number;
  maxPerUser?: number;
  /** Bytes of one message; `ws` closes with 1009 beyond it, its own default is 100 MiB. */
  maxPayload?: number;
  /** Bytes that may wait for one client; a slower one is closed with 1013, and resumes. */
  maxQueued?: number;
  messagesPerSecond?: number;
  /** Time in ms between pings; a client that has sent nothing between two of them is closed. */
  pingEvery?: number;
  /** Time limit in ms for `authenticate` and for the first message. */
  authTimeout?: number;
}
// ANCHOR_END: options

// ANCHOR: client
/** One authenticated connection. */
export class Client<U> {
  readonly session: Session<U>;
  readonly #socket: WebSocket;
  readonly #maxQueued: number;

  constructor(socket: WebSocket, session: Session<U>, maxQueued: number) {
    this.#socket = socket;
    this.session = session;
    this.#maxQueued = maxQueued;
  }

  /**
   * Returns false if the connection is closed, or is now closed because the client reads too slowly. A string is sent
   * as text, a Buffer as binary.
   */
  send(data: string | Buffer): boolean {
    if (this.#socket.readyState !== this.#socket.OPEN) return false;
    if (this.#socket.bufferedAmount + Buffer.byteLength(data) > this.#maxQueued) {
      this.close(1013, "too slow");
      return false;
    }
    this.#socket.send(data);
    return true;
  }

  close(code: number, reason = ""): void {
    end(this.#socket, code, reason);
  }
}

/** The close frame of a stalled client waits behind its queue: after 5 s the socket is destroyed. */
function end(socket: WebSocket, code: number, reason: string): void {
  socket.resume(); // otherwise the peer's close frame is not read
  socket.close(code, reason);
  setTimeout(() => socket.terminate(), 5_000).unref();
}
// ANCHOR_END: client

// ANCHOR: server
export interface SocketServer {
  /** Closes the connections of a user, for example with 4401 after a logout. */
  disconnect(id: string, code: number): void;
  /**
   * Refuses new connections, closes the open ones with 1001 at random moments within `spreadMs`, and waits for their
   * end.
   */
  shutdown(spreadMs?: number): Promise<void>;
}

export function serveWebSockets<U>(http: Server, options: ServerOptions<U>): SocketServer {
  const {
    protocols = [],
    maxConnections = 10_000,
    maxPerUser = 20,
    maxPayload = 64 * 1024,
    maxQueued = 1024 * 1024,
    messagesPerSecond = 20,
    pingEvery = 20_000,
    authTimeout = 10_000,
    onError = console.error,
  } = options;
  const wss = new WebSocketServer({
    noServer: true,
    maxPayload,
    perMessageDeflate: false, // compression takes memory for each connection, and time for each message
    handleProtocols: (offered) => protocols.find((name) => offered.has(name)) ?? false,
  });
  const users = new Map<string, Set<Client<U>>>();
  let connections = 0; // includes connections that are not authenticated yet
  let closing = false;

  http.on("upgrade", (request: IncomingMessage, raw: Duplex, head: Buffer) => {
    raw.on("error", onError); // without a listener, a reset during the handshake would end the process
    const url = new URL(request.url ?? "/", "http://any");
    if (url.pathname !== options.path) {
      // Another listener, such as that of a dev server, may handle this path.
      if (http.listenerCount("upgrade") === 1) refuse(raw, "404 Not Found");
      return;
    }
    const { origin } = request.headers;
    if (origin !== undefined && !options.origins.includes(origin)) return refuse(raw, "403 Forbidden");
    const offered = request.headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim()) ?? [];
    if (protocols.length > 0 && !protocols.some((name) => offered.includes(name))) {
      return refuse(raw, "400 Bad Request");
    }
    if (closing || connections >= maxConnections) return refuse(raw, "503 Service Unavailable", "Retry-After: 5\r\n");
    connections += 1;
    raw.once("close", () => (connections -= 1));
    wss.handleUpgrade(request, raw, head, (socket) => void run(socket, request));
  });
  // ANCHOR_END: server

  // ANCHOR: run
  async function run(socket: WebSocket, request: IncomingMessage): Promise<void> {
    // Without a listener, one malformed frame ends the process. `ws` has sent the close frame, and waits for the
    // peer's.
    socket.on("error", (error) => {
      onError(error);
      end(socket, 1002, "");
    });
    const closed = new Promise<number>((resolve) => socket.once("close", resolve)); // not once(), which rejects at an error
    const inbox = new Inbox(socket, messagesPerSecond);
    const session = await authenticated(inbox, request);
    // The socket is accepted first, because a page sees only 1006 for a refused handshake.
    if (session === undefined) return end(socket, 4401, "log in");
    if (closing) return end(socket, 1001, "restart");
    const own = users.get(session.id) ?? new Set();
    if (own.size >= maxPerUser) return end(socket, 1013, "too many connections");
    const client = new Client(socket, session, maxQueued);
    users.set(session.id, own.add(client));
    const timers = [
      every(pingEvery, heartbeat(socket)),
      atTime(session.expiresAt, () => client.close(4408, "expired")),
    ];
    try {
      options.onOpen?.(client);
      for await (const data of inbox) {
        // The heartbeat of `websocket/client.ts`.
        if (data === '{"type":"ping"}') client.send('{"type":"pong"}');
        else await options.onMessage(client, data);
      }
    } catch (error) {
      onError(error);
      client.close(1011, "internal error");
    }
    const code = await closed;
    for (const stop of timers) stop();
    own.delete(client);
    if (own.size === 0) users.delete(session.id);
    options.onClose?.(client, code);
  }

  async function authenticated(inbox: Inbox, request: IncomingMessage): Promise<Session<U> | undefined> {
    const byMessage = async (): Promise<Session<U> | undefined> => {
      const { value } = await inbox.next();
      return typeof value === "string" ? options.authenticateMessage?.(value) : undefined;
    };
    const deadline = new Promise<undefined>((resolve) => {
      setTimeout(() => resolve(undefined), authTimeout).unref();
    });
    const found = options.authenticate(request).then((session) => session ?? byMessage());
    return Promise.race([found, deadline]).catch((error: unknown) => void onError(error));
  }
  // ANCHOR_END: run

  // ANCHOR: end
  return {
    disconnect(id, code) {
      for (const client of users.get(id) ?? []) client.close(code);
    },
    async shutdown(spreadMs = 5_000) {
      closing = true;
      const open = [...users.values()].flatMap((clients) => [...clients]);
      for (const client of open) setTimeout(() => client.close(1001, "restart"), Math.random() * spreadMs);
      while (users.size > 0) await new Promise((resolve) => setTimeout(resolve, 20));
    },
  };
}

function refuse(raw: Duplex, status: string, headers = ""): void {
  raw.end(`HTTP/1.1 ${status}\r\n${headers}Connection: close\r\nContent-Length: 0\r\n\r\n`);
}

/** Sends pings, and ends a connection from which nothing came since the last ping. */
function heartbeat(socket: WebSocket): () => void {
  let alive = true;
  const heard = (): void => void (alive = true);
  socket.on("pong", heard).on("message", heard);
  return () => {
    if (!alive) return socket.terminate();
    alive = socket.isPaused; // this side does not read, so silence proves nothing
    socket.ping();
  };
}

function every(ms: number, run: () => void): () => void {
  const timer = setInterval(run, ms);
  return () => clearInterval(timer);
}

function atTime(time: number | undefined, run: () => void): () => void {
  if (time === undefined) return () => undefined;
  const timer = setTimeout(run, Math.min(Math.max(time - Date.now(), 0), 2 ** 31 - 1)); // setTimeout takes more for 1
  return () => clearTimeout(timer);
}
// ANCHOR_END: end

// ANCHOR: inbox
/**
 * Gives out messages one at a time. While one is handled, or this second's quota is used up, the socket is not read:
 * TCP slows the peer.
 */
class Inbox implements AsyncIterableIterator<string | Buffer, undefined> {
  readonly #socket: WebSocket;
  readonly #perSecond: number;
  readonly #waiting: (string | Buffer)[] = [];
  #tokens: number;
  #at = performance.now();
  #ended = false;
  #wake = (): void => undefined;

  constructor(socket: WebSocket, perSecond: number) {
    this.#socket = socket;
    this.#perSecond = perSecond;
    this.#tokens = perSecond;
    socket.on("message", (data: Buffer, isBinary) => {
      // The rest of the last read of the socket still arrives although it is paused: at most 64 KiB.
      this.#waiting.push(isBinary ? data : data.toString());
      socket.pause();
      this.#wake();
    });
    socket.on("close", () => {
      this.#ended = true;
      this.#wake();
    });
  }

  async next(): Promise<IteratorResult<string | Buffer, undefined>> {
    while (this.#waiting.length === 0) {
      if (this.#ended) return { done: true, value: undefined };
      this.#socket.resume();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const now = performance.now();
    this.#tokens = Math.min(this.#perSecond, this.#tokens + ((now - this.#at) / 1_000) * this.#perSecond);
    this.#at = now;
    if (this.#tokens < 1) {
      await new Promise((resolve) => setTimeout(resolve, ((1 - this.#tokens) * 1_000) / this.#perSecond));
    }
    this.#tokens -= 1;
    return { done: false, value: this.#waiting.shift()! };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
// ANCHOR_END: inbox
