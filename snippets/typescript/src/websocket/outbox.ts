// websocket/outbox: commands that survive a reconnect, for `websocket/client.ts`.
//
// Use it for what must take effect once: orders, chat messages. Cursor positions and typing signals are
// sent directly, and lost when they are late.
// Promise: each command is acknowledged, or reported as expired or refused; sent again under the same id after a
// reconnect, in order, so the server must know the ids that it has seen. In memory: a reload loses it.

// ANCHOR: outbox
export interface Command<T> {
  readonly id: string;
  readonly body: T;
}

/** The queue is full: tell the user, and keep what they have typed. */
export class OutboxFullError extends Error {
  override readonly name = "OutboxFullError";
}

/** The command was not acknowledged in time. It may have taken effect all the same: ask the server. */
export class CommandExpiredError extends Error {
  override readonly name = "CommandExpiredError";
}

interface Entry<T, A> {
  command: Command<T>;
  expiresAt: number;
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
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sent = new Set<string>();

  /** `transmit` is `(command) => client.send(JSON.stringify(command))`; false keeps the command. */
  constructor(
    transmit: (command: Command<T>) => boolean,
    { maxCommands = 100, timeToLive = 60_000, newId = (): string => crypto.randomUUID() } = {},
  ) {
    this.#transmit = transmit;
    this.#maxCommands = maxCommands;
    this.#timeToLive = timeToLive;
    this.#newId = newId;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** Settles when the server has answered: only then has the command arrived. */
  send(body: T): Promise<A> {
    if (this.#waiting.size >= this.#maxCommands) {
      return Promise.reject(new OutboxFullError(`${this.#maxCommands} commands are waiting`));
    }
    const command = { id: this.#newId(), body };
    return new Promise((resolve, reject) => {
      this.#waiting.set(command.id, { command, expiresAt: Date.now() + this.#timeToLive, resolve, reject });
      this.flush();
    });
  }

  /** The acknowledgement. One for a command that has expired, or a second one, is ignored. */
  acknowledge(id: string, answer: A): void {
    this.#take(id)?.resolve(answer);
  }

  refuse(id: string, error: Error): void {
    this.#take(id)?.reject(error);
  }

  /** Call it in `onOpen`: whatever the old connection took without an answer is sent again. */
  resend(): void {
    this.#sent.clear();
    this.flush();
  }

  /** Sends what was not sent on this connection yet, until the client takes no more. */
  flush(): void {
    clearTimeout(this.#timer);
    const now = Date.now();
    for (const [id, entry] of this.#waiting) {
      // Nobody expects the "buy" of an hour ago to be carried out now.
      if (entry.expiresAt <= now) this.#take(id)?.reject(new CommandExpiredError(id));
    }
    for (const [id, { command }] of this.#waiting) {
      if (this.#sent.has(id)) continue;
      if (!this.#transmit(command)) break; // and none after it, or they would overtake it
      this.#sent.add(id);
    }
    // The queue is looked at again: for what expires, and for what the client did not take.
    if (this.#waiting.size > 0) this.#timer = setTimeout(() => this.flush(), Math.min(1_000, this.#timeToLive));
  }

  #take(id: string): Entry<T, A> | undefined {
    const entry = this.#waiting.get(id);
    this.#waiting.delete(id);
    this.#sent.delete(id);
    return entry;
  }
}
// ANCHOR_END: outbox
