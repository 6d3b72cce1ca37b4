// websocket/outbox: commands that survive a reconnect, for `websocket/client.ts`.
//
// Use it for what must take effect once: orders, chat messages. Cursor positions and typing signals are
// sent directly, and lost when they are late.
// Guarantees: each command is acknowledged, or reported as expired or refused; sent again under the same id after a
// reconnect, in order, so the server must know the ids that it has seen. At most `window` commands wait for their
// answers at once, so that a backlog does not meet a rate limit. In memory: a reload loses it.

export interface Command<T> {
  readonly id: string;
  readonly body: T;
}

/** The queue is full: tell the user, and keep what they have typed. */
export class OutboxFullError extends Error {
  override readonly name = "OutboxFullError";
}

/** The command was not acknowledged in time, or before the client stopped. If it was sent, it may have taken effect, or may yet: ask the server. */
export class CommandExpiredError extends Error {
  override readonly name = "CommandExpiredError";
  readonly sent: boolean;
  constructor(id: string, sent: boolean) {
    super(id);
    this.sent = sent;
  }
}

interface Entry<T, A> {
  command: Command<T>;
  expiresAt: number;
  /** On any connection. */
  sent: boolean;
  resolve(answer: A): void;
  reject(error: Error): void;
}

export class Outbox<T, A = void> {
  // A Map keeps its order: what was first is sent first.
  readonly #waiting = new Map<string, Entry<T, A>>();
  readonly #transmit: (command: Command<T>) => boolean;
  readonly #maxCommands: number;
  readonly #timeToLive: number;
  readonly #newId: () => string;
  readonly #window: SendWindow;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sent = new Set<string>();

  /** `transmit` is `(command) => client.send(JSON.stringify(command))`; false keeps the command. */
  constructor(
    transmit: (command: Command<T>) => boolean,
    { maxCommands = 100, timeToLive = 60_000, newId = randomId, window = new SendWindow(() => this.flush()) } = {},
  ) {
    this.#transmit = transmit;
    this.#maxCommands = maxCommands;
    this.#timeToLive = timeToLive;
    this.#newId = newId;
    this.#window = window;
  }

  get size(): number {
    return this.#waiting.size;
  }

  // ANCHOR: send
  /** Settles when the server has answered: only then has the command arrived. */
  send(body: T): Promise<A> {
    if (this.#waiting.size >= this.#maxCommands) {
      return Promise.reject(new OutboxFullError(`${this.#maxCommands} commands are waiting`));
    }
    const command = { id: this.#newId(), body };
    return new Promise((resolve, reject) => {
      this.#waiting.set(command.id, {
        command,
        expiresAt: Date.now() + this.#timeToLive,
        sent: false,
        resolve,
        reject,
      });
      this.flush();
    });
  }
  // ANCHOR_END: send

  /** The acknowledgement. One for a command that has expired, or a second one, is ignored. */
  acknowledge(id: string, answer: A): void {
    this.#take(id)?.resolve(answer);
  }

  refuse(id: string, error: Error): void {
    this.#take(id)?.reject(error);
  }

  /** Call it when the client has stopped: no acknowledgement will come. */
  stop(): void {
    clearTimeout(this.#timer);
    for (const [id, { sent }] of [...this.#waiting]) this.refuse(id, new CommandExpiredError(id, sent));
  }

  // ANCHOR: hold
  /** The server did not execute the command, and accepts it again in `ms`. Later commands may overtake it. */
  hold(id: string, ms: number): void {
    this.#sent.delete(id);
    this.#window.refused(id, ms);
  }

  /** Call it in `onOpen`: resends all commands that were sent on the old connection and not answered. */
  resend(): void {
    for (const id of this.#sent) this.#window.untake(id);
    this.#sent.clear();
    this.flush();
  }

  /** Sends the commands that were not sent on this connection yet, until the socket's buffer or the window is full. */
  flush(): void {
    clearTimeout(this.#timer);
    const now = Date.now();
    for (const [id, entry] of this.#waiting) {
      // No user expects the "buy" of an hour ago to be executed now.
      if (entry.expiresAt <= now) this.#take(id)?.reject(new CommandExpiredError(id, entry.sent));
    }
    if (this.#sendAll()) this.#window.drained();
    // The queue is checked again later, for commands that expire or that the client did not take.
    if (this.#waiting.size > 0) this.#timer = setTimeout(() => this.flush(), Math.min(1_000, this.#timeToLive));
  }

  #sendAll(): boolean {
    for (const [id, entry] of this.#waiting) {
      if (this.#sent.has(id)) continue;
      if (!this.#window.take(id)) return false; // and no later command, or it would overtake this one
      if (!this.#transmit(entry.command)) {
        this.#window.untake(id);
        return false;
      }
      entry.sent = true;
      this.#sent.add(id);
    }
    return true;
  }
  // ANCHOR_END: hold

  #take(id: string): Entry<T, A> | undefined {
    const entry = this.#waiting.get(id);
    this.#waiting.delete(id);
    this.#sent.delete(id);
    this.#window.answered(id);
    return entry;
  }
}

// ANCHOR: window
/** Bounds what is sent and not answered yet, and paces it once the server has refused some of it. */
export class SendWindow {
  readonly #onRoom: () => void;
  readonly #max: number;
  readonly #maxPace: number;
  readonly #inFlight = new Set<string>();
  /** Time in ms between two sends: 0 until a refusal, and again when nothing waits any more. */
  #pace = 0;
  #notBefore = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** `onRoom` is called when `take` may succeed again. `maxPace` in ms: for a server that takes several at once after a wait. */
  constructor(onRoom: () => void, max = 16, maxPace = Infinity) {
    this.#onRoom = onRoom;
    this.#max = max;
    this.#maxPace = maxPace;
  }

  /** True: send it now, and call `answered` at its answer. False: `onRoom` follows. */
  take(key: string): boolean {
    if (this.#inFlight.size >= this.#max) return false;
    const now = performance.now();
    if (now < this.#notBefore) {
      this.#timer ??= setTimeout(() => {
        this.#timer = undefined;
        this.#onRoom();
      }, this.#notBefore - now);
      return false;
    }
    this.#inFlight.add(key);
    this.#notBefore = now + this.#pace;
    return true;
  }

  answered(key: string): void {
    if (this.#inFlight.delete(key) && this.#inFlight.size === this.#max - 1) queueMicrotask(this.#onRoom);
  }

  /** It was not sent after all, or its connection is lost. */
  untake(key: string): void {
    this.#inFlight.delete(key);
  }

  /** The server takes this one again in `ms`, and the others no faster than one in each `ms`. */
  refused(key: string, ms: number): void {
    this.#inFlight.delete(key);
    this.#pace = Math.min(this.#maxPace, Math.max(this.#pace, ms));
    this.#notBefore = Math.max(this.#notBefore, performance.now() + ms);
    queueMicrotask(this.#onRoom);
  }

  /** Nothing waits: the next one is not paced. */
  drained(): void {
    this.#pace = 0;
  }
}

/** `crypto.randomUUID` exists in secure contexts only, which `http://192.168.0.7` is not. */
export function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
// ANCHOR_END: window
