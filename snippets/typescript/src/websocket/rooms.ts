// websocket/rooms: rooms over one WebSocket, resumed without a gap; the client of `websocket/rooms` in Rust.
//
// Use it with the protocol `rooms.v1`. Goes with `websocket/client.ts` and `websocket/outbox.ts`.
// Guarantees: each event of a room reaches its handler once and in order, over any number of connections; where that is
// impossible the handler is notified to reset. A publication is acknowledged once, or reported. What the server refuses
// for its rate is sent again later, joins too. An exception in the handler of one room stops that room only.

// ANCHOR: rooms
import { type ClientOptions, type Data, WebSocketClient } from "./client.ts";
import { type Command, Outbox, SendWindow } from "./outbox.ts";

export interface RoomEvent {
  type: "message";
  room: string;
  seq: number;
  user: string;
  data: unknown;
}

export interface RoomHandler {
  onEvent(event: RoomEvent): void | Promise<void>;
  /** What was built from earlier events is void: load a snapshot. `seq` is the last event that it must contain. */
  onReset(users: string[], seq: number): void | Promise<void>;
  /** Who is in the room: some of their names, and how many they are. State, so that one that is missed costs nothing. */
  onPresence?(users: string[], count: number): void;
  /** Not allowed, or full. */
  onRefused?(code: string): void;
  /** A function of this handler has thrown: the room is left, and the other rooms continue. `console.error` if absent. */
  onFailed?(error: unknown): void;
}

/** Sequence numbers count within one epoch of the room; a contract of plain numbers has none. */
export interface Cursor {
  epoch?: string;
  seq: number;
}

interface Room {
  handler: RoomHandler;
  /** What to resume after, once a join was answered. */
  cursor?: Cursor;
  /** A join is not answered yet: an event that comes now would make the gap before it invisible. */
  joining: boolean;
}

export interface Presence {
  users?: string[];
  count?: number;
}

export type Incoming =
  | RoomEvent
  | ({ type: "joined" | "reset"; room: string } & Cursor & Presence)
  | ({ type: "presence"; room: string } & Presence)
  | { type: "gap"; room: string; from: number; to: number }
  | { type: "ack"; id: string; seq: number }
  | { type: "error"; code: string; id?: string | null; room?: string | null; retry_after_ms?: number }
  | { type: "left"; room: string }
  | { type: "pong" };

/** The words of a contract: `new Rooms({ protocol: { ...ROOMS_V1, … } })`. */
export interface Protocol {
  subprotocol: string;
  ping(): object;
  join(room: string, resume?: Cursor): object;
  /** Absent: the server has no such message, and forgets a room with the connection. */
  leave?(room: string): object;
  publish(id: string, room: string, data: unknown): object;
  /** Returns `undefined` for a message that is not for the rooms. Refusals for a rate have the code `rate_limited`. */
  read(message: unknown): Incoming | undefined;
}

export const ROOMS_V1: Protocol = {
  subprotocol: "rooms.v1",
  ping: () => ({ type: "ping" }),
  join: (room, resume) => ({ type: "join", room, ...(resume && { resume }) }),
  leave: (room) => ({ type: "leave", room }),
  publish: (id, room, data) => ({ type: "publish", id, room, data }),
  read: (message) => message as Incoming,
};

interface Publication {
  room: string;
  data: unknown;
}

export class Rooms {
  readonly #rooms = new Map<string, Room>();
  readonly #client: WebSocketClient;
  readonly #protocol: Protocol;
  readonly #outbox: Outbox<Publication, number>;
  readonly #window: SendWindow;
  /** Rooms whose membership the server does not know yet: sent before any publication, as only members may publish. */
  readonly #unsent = new Set<string>();
  /** Joins sent on this connection and not answered: only the answer to the last one counts. */
  readonly #asked = new Map<string, number>();

  /** `window`: messages that may wait for their answers at once; the others are those of `Outbox` and `SendWindow`. */
  constructor({
    window = 16,
    protocol = ROOMS_V1,
    timeToLive = 60_000,
    maxCommands = 100,
    maxPace = Infinity,
    ...options
  }: Omit<ClientOptions, "onOpen" | "onMessage" | "protocols"> & {
    window?: number;
    protocol?: Protocol;
    timeToLive?: number;
    maxCommands?: number;
    maxPace?: number;
  }) {
    this.#protocol = protocol;
    this.#window = new SendWindow(() => this.#flush(), window, maxPace);
    const send = (message: object): boolean => this.#unsent.size === 0 && this.#client.send(JSON.stringify(message));
    const publish = ({ id, body }: Command<Publication>): boolean => send(protocol.publish(id, body.room, body.data));
    this.#outbox = new Outbox(publish, { window: this.#window, timeToLive, maxCommands });
    this.#client = new WebSocketClient({
      heartbeat: () => JSON.stringify(protocol.ping()),
      ...options,
      protocols: [protocol.subprotocol],
      onOpen: () => {
        this.#asked.clear();
        this.#unsent.clear(); // the server knows no member of an earlier connection
        for (const [name, room] of this.#rooms) this.#join(name, room);
        this.#outbox.resend(); // sends none before the joins
        this.#flush();
      },
      onMessage: (data) => this.#receive(data),
      onState: (state, code, error) => {
        if (state === "stopped") this.#outbox.stop();
        options.onState?.(state, code, error);
      },
    });
  }

  join(name: string, handler: RoomHandler): void {
    const room = { handler, joining: true };
    this.#rooms.set(name, room);
    this.#join(name, room);
    this.#flush();
  }

  leave(name: string): void {
    if (!this.#rooms.delete(name)) return;
    this.#unsent.add(name);
    this.#flush();
  }

  /** Settles with the sequence number that the room gave it. */
  publish(room: string, data: unknown): Promise<number> {
    return this.#outbox.send({ room, data });
  }

  close(): void {
    this.#client.close();
  }

  #join(name: string, room: Room): void {
    room.joining = true;
    this.#unsent.add(name);
    this.#window.untake(`room ${name}`);
  }

  #flush(): void {
    for (const name of this.#unsent) {
      const room = this.#rooms.get(name);
      const message = room ? this.#protocol.join(name, room.cursor) : this.#protocol.leave?.(name);
      if (message === undefined) {
        this.#unsent.delete(name);
        continue;
      }
      if (!this.#window.take(`room ${name}`)) return;
      if (!this.#client.send(JSON.stringify(message))) {
        this.#window.untake(`room ${name}`);
        return; // onOpen sends it
      }
      this.#unsent.delete(name);
      if (this.#rooms.has(name)) this.#asked.set(name, (this.#asked.get(name) ?? 0) + 1);
    }
    this.#outbox.flush();
  }

  async #receive(data: Data): Promise<void> {
    const message = this.#protocol.read(JSON.parse(data as string));
    switch (message?.type) {
      case "joined":
      case "reset": {
        const room = this.#rooms.get(message.room);
        if (!this.#answered(message.room) || room === undefined) return; // left meanwhile, or joined again
        room.joining = false;
        await this.#guard(message.room, room, async () => {
          // The first join has no past either: it starts with a snapshot.
          const { epoch, seq } = message;
          if (message.type === "reset" || room.cursor === undefined) {
            await room.handler.onReset(message.users ?? [], seq);
            room.cursor = epoch === undefined ? { seq } : { epoch, seq };
          }
          present(room, message);
        });
        return;
      }
      case "presence": {
        const room = this.#rooms.get(message.room);
        if (room !== undefined) await this.#guard(message.room, room, () => present(room, message));
        return;
      }
      case "gap": {
        const room = this.#rooms.get(message.room);
        if (room === undefined) return; // left meanwhile
        this.#join(message.room, room); // as after a cut: the history fills it, or the answer is `reset`
        return this.#flush();
      }
      case "ack":
        return this.#outbox.acknowledge(message.id, message.seq);
      case "left":
        return this.#window.answered(`room ${message.room}`);
      case "error":
        return this.#refused(message.code, message.id ?? undefined, message.room ?? undefined, message.retry_after_ms);
      case "message":
        return this.#apply(message);
    }
  }

  async #apply(event: RoomEvent): Promise<void> {
    const room = this.#rooms.get(event.room);
    const cursor = room?.cursor;
    if (!room || !cursor || room.joining || event.seq <= cursor.seq) return; // it came before, or comes again
    await this.#guard(event.room, room, async () => {
      await room.handler.onEvent(event);
      cursor.seq = event.seq; // handled: only now does a resume continue after it
    });
  }

  /** Whether the answer is the one to the last join of this room. */
  #answered(name: string): boolean {
    const asked = (this.#asked.get(name) ?? 1) - 1;
    this.#asked.set(name, asked);
    if (asked === 0) this.#window.answered(`room ${name}`);
    return asked === 0;
  }

  #refused(code: string, id?: string, name?: string, retryAfter = 1_000): void {
    const temporary = code === "rate_limited";
    if (id !== undefined) {
      if (temporary) this.#outbox.hold(id, retryAfter);
      else this.#outbox.refuse(id, new Error(code));
    } else if (name !== undefined) {
      if (!this.#answered(name)) return;
      if (temporary) {
        this.#unsent.add(name);
        this.#window.refused(`room ${name}`, retryAfter);
      } else this.#rooms.get(name)?.handler.onRefused?.(code);
    }
  }

  async #guard(name: string, room: Room, handle: () => void | Promise<void>): Promise<void> {
    try {
      await handle();
    } catch (error) {
      if (this.#rooms.get(name) === room) this.leave(name);
      if (room.handler.onFailed === undefined) console.error(error);
      else room.handler.onFailed(error);
    }
  }
}

function present({ handler }: Room, { users = [], count = users.length }: Presence): void {
  handler.onPresence?.(users, count);
}
// ANCHOR_END: rooms
