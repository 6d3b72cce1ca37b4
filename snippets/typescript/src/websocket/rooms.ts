// websocket/rooms: rooms over one WebSocket, resumed without a gap; the client of `websocket/rooms` in Rust.
//
// Use it with the protocol `rooms.v1`. Goes with `websocket/client.ts` and `websocket/outbox.ts`.
// Guarantees: each event of a room reaches its handler once and in order, over any number of connections; where that is
// impossible the handler is notified to reset. A publication is acknowledged once, or reported. What the server refuses
// for its rate is sent again later, joins too. An exception in the handler of one room stops that room only.

// ANCHOR: rooms
import { type ClientOptions, type Data, WebSocketClient } from "./client.ts";
import { Outbox, SendWindow } from "./outbox.ts";

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

interface Room {
  handler: RoomHandler;
  /** Sequence numbers count within one epoch of the room. */
  epoch?: string;
  seq: number;
  /** A join is not answered yet: an event that comes now would make the gap before it invisible. */
  joining: boolean;
}

interface Presence {
  users?: string[];
  count?: number;
}

type Incoming =
  | RoomEvent
  | ({ type: "joined" | "reset"; room: string; epoch: string; seq: number } & Presence)
  | ({ type: "presence"; room: string } & Presence)
  | { type: "gap"; room: string; from: number; to: number }
  | { type: "ack"; id: string; seq: number }
  | { type: "error"; code: string; id?: string | null; room?: string | null; retry_after_ms?: number }
  | { type: "left"; room: string }
  | { type: "pong" };

export class Rooms {
  readonly #rooms = new Map<string, Room>();
  readonly #client: WebSocketClient;
  readonly #outbox: Outbox<{ room: string; data: unknown }, number>;
  readonly #window: SendWindow;
  /** Rooms whose membership the server does not know yet: sent before any publication, as only members may publish. */
  readonly #unsent = new Set<string>();
  /** Joins sent on this connection and not answered: only the answer to the last one counts. */
  readonly #asked = new Map<string, number>();

  /** `window`: messages that may wait for their answers at once. */
  constructor({
    window = 16,
    ...options
  }: Omit<ClientOptions, "onOpen" | "onMessage" | "protocols"> & { window?: number }) {
    this.#window = new SendWindow(() => this.#flush(), window);
    const send = (message: object): boolean => this.#unsent.size === 0 && this.#client.send(JSON.stringify(message));
    this.#outbox = new Outbox(({ id, body }) => send({ type: "publish", id, ...body }), { window: this.#window });
    this.#client = new WebSocketClient({
      heartbeat: () => '{"type":"ping"}',
      ...options,
      protocols: ["rooms.v1"],
      onOpen: () => {
        this.#asked.clear();
        this.#unsent.clear(); // the server knows no member of an earlier connection
        for (const [name, room] of this.#rooms) this.#join(name, room);
        this.#outbox.resend(); // sends none before the joins
        this.#flush();
      },
      onMessage: (data) => this.#receive(data),
    });
  }

  join(name: string, handler: RoomHandler): void {
    const room = { handler, seq: 0, joining: true };
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
      const { epoch, seq } = this.#rooms.get(name) ?? {};
      const resume = epoch === undefined ? {} : { resume: { epoch, seq } };
      const message = this.#rooms.has(name) ? { type: "join", room: name, ...resume } : { type: "leave", room: name };
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
    const message = JSON.parse(data as string) as Incoming;
    switch (message.type) {
      case "joined":
      case "reset": {
        const room = this.#rooms.get(message.room);
        if (!this.#answered(message.room) || room === undefined) return; // left meanwhile, or joined again
        room.joining = false;
        await this.#guard(message.room, room, async () => {
          // The first join has no past either: it starts with a snapshot.
          if (message.type === "reset" || room.epoch === undefined) {
            await room.handler.onReset(message.users ?? [], message.seq);
            room.seq = message.seq;
          }
          room.epoch = message.epoch;
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
    if (room === undefined || room.joining || event.seq <= room.seq) return; // it came before, or comes again
    await this.#guard(event.room, room, async () => {
      await room.handler.onEvent(event);
      room.seq = event.seq; // handled: only now does a resume continue after it
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
