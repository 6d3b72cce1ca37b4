// websocket/rooms: rooms over one WebSocket, resumed without a gap; the client of `websocket/rooms` in Rust.
//
// Use it with the protocol `rooms.v1`. Goes with `websocket/client.ts` and `websocket/outbox.ts`.
// Promise: each event of a room reaches its handler once and in order, over any number of connections; where that is
// impossible the handler is told to reset. A publication is acknowledged once, or reported.

// ANCHOR: rooms
import { type ClientOptions, type Data, WebSocketClient } from "./client.ts";
import { Outbox } from "./outbox.ts";

export interface RoomEvent {
  type: "message" | "user_joined" | "user_left";
  room: string;
  seq: number;
  user: string;
  data?: unknown;
}

export interface RoomHandler {
  onEvent(event: RoomEvent): void | Promise<void>;
  /** What was built from earlier events is void: load a snapshot. `seq` is the last event that it must contain. */
  onReset(users: string[], seq: number): void | Promise<void>;
  /** Not allowed, or full. */
  onRefused?(code: string): void;
}

interface Room {
  handler: RoomHandler;
  /** Sequence numbers count within one life of the room. */
  epoch?: string;
  seq: number;
}

type Incoming =
  | RoomEvent
  | { type: "joined" | "reset"; room: string; epoch: string; seq: number; users: string[]; events: RoomEvent[] }
  | { type: "gap"; room: string; from: number; to: number }
  | { type: "ack"; id: string; seq: number }
  | { type: "error"; code: string; id: string | null; room: string | null }
  | { type: "left" | "pong" };

export class Rooms {
  readonly #rooms = new Map<string, Room>();
  readonly #client: WebSocketClient;
  readonly #outbox: Outbox<{ room: string; data: unknown }, number>;

  constructor(options: Omit<ClientOptions, "onOpen" | "onMessage" | "protocols">) {
    this.#outbox = new Outbox(({ id, body }) => this.#client.send(JSON.stringify({ type: "publish", id, ...body })));
    this.#client = new WebSocketClient({
      heartbeat: () => '{"type":"ping"}',
      ...options,
      protocols: ["rooms.v1"],
      onOpen: () => {
        for (const name of this.#rooms.keys()) this.#join(name);
        this.#outbox.resend(); // after the joins: only a member may publish
      },
      onMessage: (data) => this.#receive(data),
    });
  }

  join(name: string, handler: RoomHandler): void {
    this.#rooms.set(name, { handler, seq: 0 });
    this.#join(name);
  }

  leave(name: string): void {
    if (this.#rooms.delete(name)) this.#client.send(JSON.stringify({ type: "leave", room: name }));
  }

  /** Settles with the sequence number that the room gave it. */
  publish(room: string, data: unknown): Promise<number> {
    return this.#outbox.send({ room, data });
  }

  close(): void {
    this.#client.close();
  }

  #join(name: string): void {
    const { epoch, seq } = this.#rooms.get(name)!;
    const resume = epoch === undefined ? {} : { resume: { epoch, seq } };
    this.#client.send(JSON.stringify({ type: "join", room: name, ...resume }));
  }

  async #receive(data: Data): Promise<void> {
    const message = JSON.parse(data as string) as Incoming;
    switch (message.type) {
      case "joined":
      case "reset": {
        const room = this.#rooms.get(message.room);
        if (room === undefined) return; // left meanwhile
        // The first join has no past either: it begins with a snapshot.
        if (message.type === "reset" || room.epoch === undefined) {
          await room.handler.onReset(message.users, message.seq);
          room.seq = message.seq;
        }
        room.epoch = message.epoch;
        for (const event of message.events) await this.#apply(event);
        return;
      }
      case "gap":
        return this.#join(message.room); // as after a cut: the history fills it, or the answer is `reset`
      case "ack":
        return this.#outbox.acknowledge(message.id, message.seq);
      case "error":
        if (message.id !== null) this.#outbox.refuse(message.id, new Error(message.code));
        else if (message.room !== null) this.#rooms.get(message.room)?.handler.onRefused?.(message.code);
        return;
      case "message":
      case "user_joined":
      case "user_left":
        return this.#apply(message);
    }
  }

  async #apply(event: RoomEvent): Promise<void> {
    const room = this.#rooms.get(event.room);
    if (room === undefined || event.seq <= room.seq) return; // it was in the replay already
    await room.handler.onEvent(event);
    room.seq = event.seq; // handled: only now does a resume go on after it
  }
}
// ANCHOR_END: rooms
