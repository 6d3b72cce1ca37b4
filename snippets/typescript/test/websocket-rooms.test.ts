// The client of the rooms protocol against a server that refuses, is late, and fails on purpose.
import { expect, onTestFinished, test } from "vitest";
import type { WebSocket as ServerSocket } from "ws";
import { type Protocol, type RoomEvent, type RoomHandler, Rooms } from "../src/websocket/rooms.ts";
import { eventually, signal } from "./support/server.ts";
import { serveSockets } from "./support/websocket.ts";

interface Message {
  type: string;
  id?: string;
  room: string;
  data?: unknown;
  resume?: { epoch: string; seq: number };
}

type Answer = (message: Message, say: (message: object) => void, socket: ServerSocket, nth: number) => void;

/** A server that answers each message by `answer`, and a client of it. */
async function enter(
  answer: Answer,
  options: Partial<ConstructorParameters<typeof Rooms>[0]> = {},
): Promise<{ rooms: Rooms; got: Message[]; states: string[] }> {
  const got: Message[] = [];
  const states: string[] = [];
  const server = await serveSockets(
    (socket, nth) => {
      socket.on("message", (data) => {
        const message = JSON.parse(data.toString()) as Message;
        got.push(message);
        answer(message, (reply) => socket.send(JSON.stringify(reply)), socket, nth);
      });
    },
    { handleProtocols: () => "rooms.v1" },
  );
  const rooms = new Rooms({
    url: () => server.ws,
    minDelay: 1,
    maxDelay: 5,
    onState: (state, code) => states.push(code === undefined ? state : `${state} ${code}`),
    ...options,
  });
  onTestFinished(() => rooms.close());
  return { rooms, got, states };
}

function joined({ room }: Message, seq = 0): object {
  return { type: "joined", room, epoch: "e", seq, count: 1, users: ["ada"] };
}

const message = (room: string, seq: number): object => ({ type: "message", room, seq, user: "ada", data: seq });

/** A handler, and what it saw. */
function handler(more: Partial<RoomHandler> = {}): RoomHandler & { seen: number[]; resets: number[] } {
  const seen: number[] = [];
  const resets: number[] = [];
  return {
    seen,
    resets,
    onEvent: ({ seq }: RoomEvent) => void seen.push(seq),
    onReset: (_, seq) => void resets.push(seq),
    ...more,
  };
}

test("a limit of 20 messages a second delivers 45 that were typed offline, and every join", async () => {
  const applied: unknown[] = [];
  const members = new Set<string>();
  let [tokens, at, refusals, waiting, most] = [20, performance.now(), 0, 0, 0];
  const { rooms, states } = await enter((it, say) => {
    waiting += 1;
    most = Math.max(most, waiting);
    const now = performance.now();
    tokens = Math.min(20, tokens + (now - at) / 50);
    at = now;
    const limited = tokens < 1;
    if (limited) refusals += 1;
    else tokens -= 1;
    setImmediate(() => {
      waiting -= 1;
      if (limited) {
        const about = it.type === "publish" ? { id: it.id, room: null } : { id: null, room: it.room };
        say({ type: "error", code: "rate_limited", ...about, retry_after_ms: 50 });
      } else if (it.type === "join") {
        members.add(it.room);
        say(joined(it));
      } else if (members.has(it.room)) {
        applied.push(it.data);
        say({ type: "ack", id: it.id, room: it.room, seq: applied.length });
      } else say({ type: "error", code: "not_joined", id: it.id, room: it.room });
    });
  });
  const handlers = Array.from({ length: 16 }, () => handler());
  for (const [n, it] of handlers.entries()) rooms.join(`room${n}`, it);
  await Promise.all(Array.from({ length: 45 }, (_, n) => rooms.publish("room0", n)));
  await eventually(() => handlers.every(({ resets }) => resets.length === 1));
  expect(applied.toSorted((a, b) => Number(a) - Number(b))).toEqual(Array.from({ length: 45 }, (_, n) => n));
  expect(most).toBeLessThanOrEqual(16);
  expect(refusals).toBeLessThan(45);
  expect(states).toEqual(["connecting", "open"]);
});

test("a gap is filled by joining again, and that of a room that was left is ignored", async () => {
  const kept = handler();
  const left = handler();
  const { rooms, got, states } = await enter((it, say) => {
    if (it.type === "join" && it.resume === undefined) {
      say(joined(it, 1));
      say(message(it.room, 2));
      // Two are missing; what follows the notice must not hide them.
      if (it.room === "kept") say({ type: "gap", room: it.room, from: 3, to: 4 });
      if (it.room === "kept") say(message(it.room, 5));
    }
    if (it.type === "leave") {
      say({ type: "gap", room: it.room, from: 3, to: 4 }); // it was in the queue before the room was left
      say({ type: "left", room: it.room });
    }
    if (it.type === "join" && it.resume !== undefined) {
      say(joined(it, 5));
      for (const seq of [3, 4, 5]) if (seq > it.resume.seq) say(message(it.room, seq));
    }
  });
  rooms.join("left", left);
  await eventually(() => left.seen.length === 1);
  rooms.leave("left");
  rooms.join("kept", kept);
  await eventually(() => kept.seen.length === 4);
  expect(kept.seen).toEqual([2, 3, 4, 5]);
  expect(kept.resets).toEqual([1]);
  expect(got.filter(({ type }) => type === "join").map(({ room }) => room)).toEqual(["left", "kept", "kept"]);
  expect(states).toEqual(["connecting", "open"]);
});

test("an exception in one room stops that room only", async () => {
  const failed = signal<unknown>();
  const bad = handler({
    onEvent: () => Promise.reject(new Error("disk full")),
    onFailed: (error) => failed.resolve(error),
  });
  const good = handler();
  const { rooms, got, states } = await enter((it, say) => {
    if (it.type !== "join") return;
    say(joined(it));
    for (const seq of [1, 2]) say(message(it.room, seq));
  });
  rooms.join("bad", bad);
  rooms.join("good", good);
  expect(await failed.promise).toEqual(new Error("disk full"));
  await eventually(() => good.seen.length === 2 && got.some(({ type, room }) => type === "leave" && room === "bad"));
  expect(states).toEqual(["connecting", "open"]);
});

test("a room that was left and joined again has no past", async () => {
  const held: (() => void)[] = [];
  const { rooms, got } = await enter((it, say) => {
    if (it.type !== "join") return;
    const nth = got.filter(({ type }) => type === "join").length;
    held.push(() => say(joined(it, nth === 1 ? 5 : 7)));
    held.push(() => say(message(it.room, nth === 1 ? 6 : 8)));
    if (nth === 2) for (const answer of held) answer();
  });
  const [first, second] = [handler(), handler()];
  rooms.join("talk", first);
  await eventually(() => got.length === 1);
  rooms.leave("talk");
  rooms.join("talk", second);
  await eventually(() => second.seen.length === 1);
  // The answer to the first join would have made 5 the past of the second, and 7 a gap that nobody sees.
  expect([first.resets, second.resets, second.seen]).toEqual([[], [7], [8]]);
});

test("presence is state: who is there, after the join and after each change", async () => {
  const seen: [string[], number][] = [];
  const { rooms } = await enter((it, say) => {
    if (it.type !== "join") return;
    say(joined(it));
    say({ type: "presence", room: it.room, count: 300, users: ["ada", "bob"] });
  });
  rooms.join("talk", handler({ onPresence: (users, count) => void seen.push([users, count]) }));
  await eventually(() => seen.length === 2);
  expect(seen).toEqual([
    [["ada"], 1],
    [["ada", "bob"], 300],
  ]);
});

test("joins come before publications on each connection, and a refusal is reported once", async () => {
  const refused: string[] = [];
  const { rooms, got } = await enter((it, say, socket, nth) => {
    if (nth === 1) socket.terminate();
    else if (it.type === "join" && it.room === "full") say({ type: "error", code: "full", id: null, room: it.room });
    else if (it.type === "join") say(joined(it));
    else say({ type: "ack", id: it.id, room: it.room, seq: 1 });
  });
  rooms.join("full", handler({ onRefused: (code) => void refused.push(code) }));
  rooms.join("talk", handler());
  await rooms.publish("talk", "hello");
  expect(refused).toEqual(["full"]);
  expect(got.slice(-3).map(({ type, room }) => `${type} ${room}`)).toEqual(["join full", "join talk", "publish talk"]);
});

interface DeskMessage {
  op: string;
  desk: string;
  n: number;
  last: number;
  ref: string;
  from: string;
  text: unknown;
}

test.each([
  ["a session that has expired", 4408],
  ["too many connections, or a queue that overflows", 1013],
  ["too many messages", 4029],
  ["a drain", 1001],
])("the rooms outlive %s", async (_, code) => {
  let published = 0;
  const { rooms, got, states } = await enter((it, say, socket, nth) => {
    if (it.type === "join") {
      say(joined(it, it.resume?.seq ?? 0));
      if (nth === 1) say(message("a", 1));
      else for (let seq = it.resume!.seq + 1; seq <= 3; seq++) say(message("a", seq));
    }
    if (it.type !== "publish") return;
    published += 1;
    if (nth === 1) socket.close(code);
    else say({ type: "ack", id: it.id, room: "a", seq: 4 });
  });
  const a = handler();
  rooms.join("a", a);
  await eventually(() => a.seen.length === 1);
  expect(await rooms.publish("a", "words")).toBe(4);
  await eventually(() => a.seen.length === 3);
  expect([a.seen, a.resets, published]).toEqual([[1, 2, 3], [0], 2]);
  expect(got.filter(({ type }) => type === "join").map(({ resume }) => resume?.seq)).toEqual([undefined, 1]);
  expect(states).toContain(`waiting ${code}`);
});

/** `enter`, `entered`, `refresh`, `line`, `said`, with plain numbers. */
const DESK: Protocol = {
  subprotocol: "desk.v2",
  ping: () => ({ op: "alive" }),
  join: (desk, resume) => ({ op: "enter", desk, after: resume?.seq ?? null }),
  publish: (ref, desk, text) => ({ op: "say", ref, desk, text }),
  read: (message) => {
    const { op, desk: room, n: seq, last, ref: id, from: user, text: data } = message as DeskMessage;
    if (op === "line") return { type: "message", room, seq, user, data };
    if (op === "said") return { type: "ack", id, seq };
    if (op === "entered" || op === "refresh") return { type: op === "entered" ? "joined" : "reset", room, seq: last };
    return undefined;
  },
};

test("a contract with other words and plain numbers resumes, and acknowledges", async () => {
  const server = await serveSockets(
    (socket, nth) => {
      const say = (message: object): void => socket.send(JSON.stringify(message));
      socket.on("message", (data) => {
        const { op, after, ref, text } = JSON.parse(data.toString()) as Record<string, unknown>;
        got.push(`${nth} ${String(op)} ${String(after ?? text ?? null)}`);
        say({ op: "weather", sun: true });
        if (op === "enter") {
          say({ op: "entered", desk: "a", last: nth === 1 ? 40 : 41 });
          if (nth === 1) say({ op: "line", desk: "a", n: 41, from: "ada", text: "hello" });
          else say({ op: "line", desk: "a", n: 42, from: "ada", text: "again" });
        }
        if (op === "say" && nth === 1) socket.terminate();
        else if (op === "say") say({ op: "said", ref, desk: "a", n: 43 });
      });
    },
    { handleProtocols: (offered) => (offered.has("desk.v2") ? "desk.v2" : false) },
  );
  const got: string[] = [];
  const a = handler();
  const rooms = new Rooms({ url: () => server.ws, protocol: DESK, minDelay: 1, maxDelay: 5 });
  onTestFinished(() => rooms.close());
  rooms.join("a", a);
  await eventually(() => a.seen.length === 1);
  expect(await rooms.publish("a", "words")).toBe(43);
  await eventually(() => a.seen.length === 2);
  rooms.leave("a"); // there is no message for it, and nothing waits for its answer
  expect(await rooms.publish("a", "more")).toBe(43);
  expect(got.pop()).toBe("2 say more");
  expect(got).toEqual(["1 enter null", "1 say words", "2 enter 41", "2 say words"]);
  expect([a.seen, a.resets]).toEqual([[41, 42], [40]]);
});

test("a client that has stopped reports what it could not deliver", async () => {
  const { rooms, states } = await enter((it, _, socket) => void (it.type === "publish" && socket.close(4401)));
  rooms.join("a", handler());
  await expect(rooms.publish("a", 1)).rejects.toMatchObject({ name: "CommandExpiredError", sent: true });
  expect(states.at(-1)).toBe("stopped 4401");
});
