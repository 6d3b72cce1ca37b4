// The TypeScript patterns, and the npm packages that people use, against the routers of the Rust patterns.
import PartySocket from "partysocket/ws";
import ReconnectingWebSocketModule from "reconnecting-websocket";
import { describe, expect, inject, onTestFinished, test, vi } from "vitest";
import { ChatError, postChat, readChat } from "../src/llm/read-chat.ts";
import { type RoomEvent, Rooms } from "../src/websocket/rooms.ts";
import type { AiSeen } from "./support/ai-chat.tsx";
import { load, openPage } from "./support/browser.ts";
import type { Seen } from "./support/chat-app.tsx";
import { eventually, signal } from "./support/server.ts";

declare const pattern: typeof import("./support/ai-chat.tsx") &
  typeof import("./support/chat-app.tsx") &
  typeof import("../src/websocket/client.ts");

const rust = (): string => inject("rust");
const never = new AbortController().signal;

function newScene(): { http: string; ws: string } {
  const http = `${rust()}/scene/${crypto.randomUUID()}`;
  return { http, ws: http.replace("http", "ws") };
}

describe("websocket/rooms", () => {
  function enter(ws: string): { rooms: Rooms; seen: RoomEvent[]; resets: number[]; states: string[] } {
    const seen: RoomEvent[] = [];
    const resets: number[] = [];
    const states: string[] = [];
    const rooms = new Rooms({
      url: () => `${ws}/rooms`,
      minDelay: 1,
      maxDelay: 20,
      onState: (state) => states.push(state),
    });
    rooms.join("talk", {
      onEvent: (event) => void (event.type === "message" && seen.push(event)),
      onReset: (_, seq) => void resets.push(seq),
    });
    onTestFinished(() => rooms.close());
    return { rooms, seen, resets, states };
  }

  test("events reach every member once and in order over a restart of the server", async () => {
    const { http, ws } = newScene();
    const [one, two] = [enter(ws), enter(ws)];
    await eventually(() => one.resets.length === 1 && two.resets.length === 1);
    const first = await one.rooms.publish("talk", "a");
    await eventually(() => two.seen.length === 1);
    await fetch(`${http}/restart`, { method: "POST" });
    // Published while the connections are closed: they wait for the next one.
    const published = await Promise.all(["b", "c", "d"].map((data) => two.rooms.publish("talk", data)));
    await eventually(() => one.seen.length === 4 && two.seen.length === 4);
    expect(one.seen.map(({ data }) => data)).toEqual(["a", "b", "c", "d"]);
    expect(two.seen).toEqual(one.seen);
    expect([first, ...published]).toEqual(one.seen.map(({ seq }) => seq));
    expect(one.states.filter((state) => state === "open").length).toBe(2);
    expect(one.resets).toHaveLength(1); // resumed, not reset
  });

  test("45 messages typed offline and 16 rooms pass the default quotas, and the client never stops", async () => {
    const { ws } = newScene();
    const states: string[] = [];
    let online = false;
    const rooms = new Rooms({
      url: () => (online ? `${ws}/rooms` : Promise.reject(new Error("offline"))),
      minDelay: 20,
      maxDelay: 50,
      onState: (state, code) => states.push(code === undefined ? state : `${state} ${code}`),
    });
    onTestFinished(() => rooms.close());
    const seen: unknown[] = [];
    let joined = 0;
    for (let at = 0; at < 16; at++) {
      rooms.join(`room${at}`, {
        onEvent: ({ data }) => void seen.push(data),
        onReset: () => void (joined += 1),
        onRefused: (code) => states.push(code),
      });
    }
    const published = Promise.all(Array.from({ length: 45 }, (_, n) => rooms.publish("room0", n)));
    await eventually(() => states.some((state) => state.startsWith("waiting")));
    online = true;
    await published;
    await eventually(() => joined === 16 && seen.length === 45);
    // Each once; those that were refused for the rate come after the others.
    expect(seen.toSorted((a, b) => Number(a) - Number(b))).toEqual(Array.from({ length: 45 }, (_, n) => n));
    expect(states.filter((state) => state.startsWith("stopped") || state.includes("_"))).toEqual([]);
    expect(states.filter((state) => state === "open")).toHaveLength(1);
  });

  test("a quiet room is no dead one: the heartbeat is answered", async () => {
    const states: string[] = [];
    const sent = vi.spyOn(WebSocket.prototype, "send");
    onTestFinished(() => sent.mockRestore());
    const rooms = new Rooms({
      url: () => `${newScene().ws}/rooms`,
      heartbeatEvery: 1_000,
      minDelay: 1,
      onState: (state) => states.push(state),
    });
    onTestFinished(() => rooms.close());
    // Twice the time after which a connection without an answer is given up.
    await eventually(() => sent.mock.calls.filter(([data]) => data === '{"type":"ping"}').length >= 5);
    expect(states).toEqual(["connecting", "open"]);
  });

  test("a publication is refused for who is not in the room, and does not come back", async () => {
    const { ws } = newScene();
    const { rooms, resets } = enter(ws);
    await eventually(() => resets.length === 1);
    await expect(rooms.publish("elsewhere", 1)).rejects.toThrow("not_joined");
  });

  test("reconnecting-websocket and partysocket speak with it, and must join again by themselves", async () => {
    const packages = [
      ReconnectingWebSocketModule as unknown as typeof ReconnectingWebSocketModule.default,
      PartySocket,
    ];
    for (const Package of packages) {
      const { http, ws } = newScene();
      const socket = new Package(`${ws}/rooms`, ["rooms.v1"], {
        WebSocket,
        minReconnectionDelay: 1,
        maxReconnectionDelay: 5,
      });
      onTestFinished(() => socket.close());
      const types: string[] = [];
      socket.onopen = () => void socket.send(JSON.stringify({ type: "join", room: "talk" }));
      socket.onmessage = ({ data }: MessageEvent<string>) =>
        void types.push((JSON.parse(data) as { type: string }).type);
      await eventually(() => types.filter((type) => type === "joined").length === 1);
      await fetch(`${http}/restart`, { method: "POST" });
      await eventually(() => types.filter((type) => type === "joined").length === 2);
    }
  });
});

describe("websocket/admission", () => {
  test("the first message authenticates each connection of a page, and a refusal is final", async () => {
    const { http, ws } = newScene();
    const page = await openPage(rust());
    await load(page, "websocket/client.ts");
    // All settings of the client are its defaults, but the delays.
    await page.evaluate((url) => {
      const seen: string[] = [];
      let token = 0;
      const client = new pattern.WebSocketClient({
        url: () => url,
        minDelay: 1,
        maxDelay: 20,
        heartbeat: () => '{"type":"ping"}',
        admission: {
          request: () => JSON.stringify({ type: "auth", token: `t${++token}` }),
          isAccepted: (data) => data === '{"type":"ready"}',
        },
        onOpen: (client) => void client.send(`hello ${token}`),
        onMessage: (data) => void seen.push(data as string),
        onState: (state, code) => void (state === "stopped" && seen.push(`stopped ${code}`)),
      });
      Object.assign(window, { seen, client });
    }, `${ws}/admission`);
    const seen = (): Promise<string[]> => page.evaluate(() => (window as unknown as { seen: string[] }).seen);
    const until = (last: string): Promise<void> => eventually(async () => (await seen()).includes(last));
    await until("hello 1");
    // A cut, and the credential of the next connection.
    await fetch(`${http}/expire`, { method: "POST" });
    await until("hello 2");
    expect(await seen()).toEqual(["hello 1", "hello 2"]);
    const stopped = await page.evaluate(
      (url) =>
        new Promise((resolve) => {
          new pattern.WebSocketClient({
            url: () => url,
            onOpen: (client) => void client.send('{"type":"auth","token":"wrong"}'),
            onMessage: () => undefined,
            onState: (state, code) => void (state === "stopped" && resolve(code)),
          });
        }),
      `${ws}/admission`,
    );
    expect(stopped).toBe(4401);
  });
});

describe("llm/relay", () => {
  async function read(script: string): Promise<[text: string, outcome: unknown]> {
    let text = "";
    const events = postChat(`${rust()}/llm/${script}/chat`, { messages: [{ role: "user", content: "Hello" }] }, never);
    const outcome = await readChat(events, (_, delta) => void (text += delta)).catch((error: unknown) => error);
    return [text, outcome];
  }

  test("readChat comes to the same end as the model, whatever goes wrong", async () => {
    for (const script of ["plain", "bytes"]) {
      const [text, done] = await read(script);
      expect(text).toBe("Hello from the scripted model.");
      expect(done).toMatchObject({ reason: "stop" });
    }
    expect((await read("length"))[1]).toMatchObject({ reason: "max_tokens" });
    expect((await read("tools"))[1]).toMatchObject({ reason: "tool_calls", tools: ["get_weather", "get_time"] });
    for (const script of ["cut", "cut-inside"]) {
      const [text, error] = await read(script);
      expect(error, script).toMatchObject({ name: "ChatError", code: "truncated", retryable: true });
      expect("Hello from the scripted model.".startsWith(text) && text !== "").toBe(true);
    }
    for (const script of ["abort", "error", "rate-limit", "overloaded"])
      expect((await read(script))[1], script).toBeInstanceOf(ChatError);
    expect((await read("rate-limit"))[1]).toMatchObject({ code: "rate_limited", retryable: true });
  });

  test("an abort closes the model's connection, while it is silent and before it has answered", async () => {
    const open = async (): Promise<number> =>
      ((await (await fetch(`${rust()}/exchanges`)).json()) as { end: string }[]).filter(({ end }) => end === "None")
        .length;
    for (const script of ["stall", "hold-head"]) {
      const stop = new AbortController();
      const began = signal();
      const reading = readChat(
        (async function* () {
          const events = postChat(`${rust()}/llm/${script}/chat`, { messages: [] }, stop.signal);
          for await (const event of events) {
            began.resolve();
            yield event;
          }
        })(),
        () => began.resolve(),
      );
      reading.catch(() => undefined);
      if (script === "stall") await began.promise;
      await eventually(async () => (await open()) === 1);
      stop.abort(new Error("Stop"));
      await expect(reading).rejects.toThrow("Stop");
      await eventually(async () => (await open()) === 0);
    }
  });

  test("useTokenStream shows its answer, and a cut one as failed", async () => {
    for (const [script, status, code] of [
      ["plain", "done", ""],
      ["cut", "failed", "truncated"],
    ] as const) {
      const page = await openPage(rust());
      await page.route("**/chat", (route) => route.continue({ url: `${rust()}/llm/${script}/chat` }));
      await load(page, "test/support/chat-app.tsx");
      await page.evaluate(() => Object.assign(window, { seen: pattern.mountChat("Chat") }));
      await page.click("#send");
      const seen = (): Promise<Seen> => page.evaluate(() => (window as unknown as { seen: Seen }).seen);
      await eventually(async () => (await seen()).status === status);
      expect((await seen()).code).toBe(code);
    }
  });
});

describe("llm/ui_message_stream", () => {
  test("useChat of the AI SDK reads it to its end, and is told of a cut", async () => {
    for (const script of ["plain", "cut", "length"]) {
      const page = await openPage(rust());
      await load(page, "test/support/ai-chat.tsx");
      await page.evaluate((api) => Object.assign(window, { seen: pattern.mountAiChat(api) }), `/ui/${script}/chat`);
      await page.click("#send");
      const seen = (): Promise<AiSeen> => page.evaluate(() => (window as unknown as { seen: AiSeen }).seen);
      await eventually(
        async () => (await seen()).finished !== "" && ["ready", "error"].includes((await seen()).status),
      );
      const { text, status, error, finished } = await seen();
      if (script === "cut") {
        expect([status, "Hello from the scripted model.".startsWith(text)]).toEqual(["error", true]);
        expect(error).not.toContain("key");
      } else {
        expect([text, status]).toEqual(["Hello from the scripted model.", "ready"]);
        expect(JSON.parse(finished)).toMatchObject({
          finishReason: script === "plain" ? "stop" : "length",
          isAbort: false,
          isError: false,
        });
      }
    }
  });
});
