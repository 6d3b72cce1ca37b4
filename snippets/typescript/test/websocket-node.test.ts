// websocket/node-server with the page's client, with raw frames, and under the probe.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { WebSocket as NodeSocket } from "ws";
import { WebSocketClient } from "../src/websocket/client.ts";
import { type Client, type ServerOptions, type SocketServer, serveWebSockets } from "../src/websocket/node-server.ts";
import { buildProbe, probe } from "./support/probe.ts";
import { eventually, serve, signal } from "./support/server.ts";

interface Running {
  ws: string;
  origin: string;
  server: SocketServer;
  clients: Client<string>[];
  got: string[];
  closed: number[];
  errors: unknown[];
}

/** Tickets are `?ticket=NAME`; without one the first message must be `{"type":"auth","token":"NAME"}`. */
async function start(options: Partial<ServerOptions<string>> = {}): Promise<Running> {
  const { http, origin } = await serve({});
  const clients: Client<string>[] = [];
  const got: string[] = [];
  const closed: number[] = [];
  const errors: unknown[] = [];
  const server = serveWebSockets<string>(http, {
    path: "/ws",
    origins: [origin],
    authenticate: async (request) => {
      const user = new URL(request.url!, "http://x").searchParams.get("ticket");
      return user === null ? undefined : { id: user, user };
    },
    authenticateMessage: async (first) => {
      const { token } = JSON.parse(first) as { token?: string };
      return token === undefined ? undefined : { id: token, user: token };
    },
    onOpen: (client) => void clients.push(client),
    onMessage: (_, data) => void got.push(data.toString()),
    onClose: (_, code) => void closed.push(code),
    onError: (error) => void errors.push(error),
    ...options,
  });
  return { ws: `${origin.replace("http", "ws")}/ws`, origin, server, clients, got, closed, errors };
}

function dial(url: string, options: { origin?: string; protocols?: string[] } = {}): NodeSocket {
  const { protocols, ...rest } = options;
  const socket = protocols === undefined ? new NodeSocket(url, rest) : new NodeSocket(url, protocols, rest);
  socket.on("error", () => undefined);
  onTestFinished(() => socket.terminate());
  return socket;
}

async function status(socket: NodeSocket): Promise<number> {
  const [, response] = (await once(socket, "unexpected-response")) as [unknown, { statusCode: number }];
  return response.statusCode;
}

const codeOf = async (socket: NodeSocket): Promise<number> => ((await once(socket, "close")) as [number])[0];

describe("serveWebSockets", () => {
  test("refuses a foreign origin, an unknown version and another path at the handshake", async () => {
    const { ws, origin } = await start({ protocols: ["v2", "v1"] });
    expect(await status(dial(ws, { origin: "https://evil.example", protocols: ["v1"] }))).toBe(403);
    expect(await status(dial(ws, { origin, protocols: ["v3"] }))).toBe(400);
    expect(await status(dial(ws.replace("/ws", "/other"), { origin }))).toBe(404);
    const socket = dial(`${ws}?ticket=ada`, { origin, protocols: ["v1", "v2"] });
    await once(socket, "open");
    expect(socket.protocol).toBe("v2");
  });

  test("authenticates by ticket or by the first message, and says 4401 otherwise", async () => {
    const { ws, clients, got } = await start({ authTimeout: 100 });
    const [byTicket, byMessage] = [dial(`${ws}?ticket=ada`), dial(ws)];
    await once(byTicket, "open");
    await once(byMessage, "open");
    byMessage.send('{"type":"auth","token":"bob"}');
    byMessage.send("hello");
    await eventually(() => got.length === 1 && clients.length === 2);
    expect([clients.map(({ session }) => session.user).toSorted(), got]).toEqual([["ada", "bob"], ["hello"]]);
    const wrong = dial(ws);
    wrong.once("open", () => wrong.send("{}"));
    const malformed = dial(ws);
    malformed.once("open", () => malformed.send("not JSON"));
    expect(await Promise.all([codeOf(wrong), codeOf(malformed), codeOf(dial(ws))])).toEqual([4401, 4401, 4401]);
    expect(clients).toHaveLength(2);
  });

  test("the page's client authenticates, is answered, and returns after an expired session", async () => {
    let opened = 0;
    const { ws, got } = await start({
      authenticate: async () => undefined,
      authenticateMessage: async (first) => {
        opened += 1;
        expect(JSON.parse(first)).toEqual({ type: "auth", token: `t${opened}` });
        return { id: "ada", user: "ada", ...(opened === 1 ? { expiresAt: Date.now() + 50 } : {}) };
      },
    });
    const states: string[] = [];
    const messages: unknown[] = [];
    let token = 0;
    const client = new WebSocketClient({
      url: () => ws,
      heartbeat: () => '{"type":"ping"}',
      heartbeatEvery: 20,
      minDelay: 1,
      maxDelay: 5,
      onOpen: (client) => {
        client.send(JSON.stringify({ type: "auth", token: `t${++token}` }));
        client.send(`hello ${token}`);
      },
      onMessage: (data) => void messages.push(data),
      onState: (state) => states.push(state),
    });
    onTestFinished(() => client.close());
    await eventually(() => got.includes("hello 2") && messages.length >= 3);
    expect(new Set(messages)).toEqual(new Set(['{"type":"pong"}']));
    expect(states).not.toContain("stopped");
  });

  test("messages are handled one at a time in order, and no faster than the limit, without losing any", async () => {
    const seen: number[] = [];
    let working = 0;
    const { ws, clients } = await start({
      messagesPerSecond: 100,
      onMessage: async (_, data) => {
        working += 1;
        expect(working).toBe(1);
        await new Promise((resolve) => setImmediate(resolve));
        seen.push(Number(data));
        working -= 1;
      },
    });
    const socket = dial(`${ws}?ticket=ada`);
    await once(socket, "open");
    const started = performance.now();
    for (let n = 0; n < 150; n++) socket.send(String(n));
    await eventually(() => seen.length === 150);
    expect(performance.now() - started).toBeGreaterThan(450); // 100 at once, 50 at one in 10 ms
    expect(seen).toEqual(Array.from({ length: 150 }, (_, n) => n));
    expect(clients).toHaveLength(1);
  });

  test("a client that does not read is closed at the bound of its queue, and others go on", async () => {
    const { ws, clients, closed } = await start({ maxQueued: 256 * 1024, pingEvery: 100 });
    const [slow, other] = [dial(`${ws}?ticket=slow`), dial(`${ws}?ticket=other`)];
    await Promise.all([once(slow, "open"), once(other, "open")]);
    await eventually(() => clients.length === 2);
    slow.pause();
    const stalled = clients.find(({ session }) => session.id === "slow")!;
    const block = "x".repeat(64 * 1024);
    let sent = 0;
    while (stalled.send(block)) {
      sent += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(sent).toBeGreaterThan(0);
    expect(stalled.send("late")).toBe(false);
    await eventually(() => closed.length === 1); // terminated, although its close frame is never read
    const answer = once(other, "message");
    clients.find(({ session }) => session.id === "other")!.send("hello");
    expect(String((await answer)[0])).toBe("hello");
  });

  test("a peer that has disappeared is closed, and one whose message takes long is not", async () => {
    const done = signal();
    const { ws, origin, closed, got } = await start({
      pingEvery: 50,
      onMessage: async (_, data) => {
        await done.promise;
        got.push(data.toString());
      },
    });
    // A handshake, and then nothing: no pong comes from here.
    const raw: Socket = connect(Number(new URL(origin).port), "127.0.0.1");
    raw.on("error", () => undefined);
    onTestFinished(() => void raw.destroy());
    raw.write(
      "GET /ws?ticket=gone HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    );
    const busy = dial(`${ws}?ticket=busy`);
    await once(busy, "open");
    busy.send("long");
    await eventually(() => closed.length === 1);
    expect(closed).toEqual([1006]);
    done.resolve();
    await eventually(() => got.length === 1);
    expect(busy.readyState).toBe(NodeSocket.OPEN);
  });

  test("connections are bounded, in all and for one user", async () => {
    const { ws } = await start({ maxConnections: 3, maxPerUser: 1 });
    const first = dial(`${ws}?ticket=ada`);
    await once(first, "open");
    expect(await codeOf(dial(`${ws}?ticket=ada`))).toBe(1013);
    await Promise.all([once(dial(`${ws}?ticket=bob`), "open"), once(dial(ws), "open")]);
    expect(await status(dial(`${ws}?ticket=eve`))).toBe(503);
  });

  test("an error of a handler ends its connection with 1011 and no word of it, and not the process", async () => {
    const { ws, errors } = await start({ onMessage: () => Promise.reject(new Error("password=1234")) });
    const socket = dial(`${ws}?ticket=ada`);
    socket.once("open", () => socket.send("x"));
    const [code, reason] = (await once(socket, "close")) as [number, Buffer];
    expect([code, reason.toString()]).toEqual([1011, "internal error"]);
    expect(errors).toEqual([new Error("password=1234")]);
    await once(dial(`${ws}?ticket=bob`), "open");
  });

  test("a malformed frame ends one connection, and nothing of the process", async () => {
    const { ws, origin, clients, errors, closed } = await start();
    const raw: Socket = connect(Number(new URL(origin).port), "127.0.0.1");
    raw.on("error", () => undefined);
    raw.write(
      "GET /ws?ticket=eve HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    );
    await eventually(() => clients.length === 1);
    raw.write(Buffer.from([0x81, 0x01, 0x78])); // without a mask: RFC 6455 section 5.1
    await eventually(() => closed.length === 1);
    expect(errors).toHaveLength(1);
    await once(dial(`${ws}?ticket=bob`), "open");
  });

  test("disconnect closes a user everywhere, shutdown everyone with 1001", async () => {
    const { ws, server, clients } = await start();
    const sockets = [dial(`${ws}?ticket=ada`), dial(`${ws}?ticket=ada`), dial(`${ws}?ticket=bob`)];
    await eventually(() => clients.length === 3);
    const [one, two, bob] = sockets.map(codeOf);
    server.disconnect("ada", 4401);
    expect(await Promise.all([one, two])).toEqual([4401, 4401]);
    await server.shutdown(20);
    expect(await bob).toBe(1001);
    expect(await status(dial(`${ws}?ticket=eve`))).toBe(503);
  });

  test("the probe finds no fault", async () => {
    buildProbe();
    const { ws, origin } = await start({ protocols: ["v1"], onMessage: (client, data) => void client.send(data) });
    const found = await probe(
      "ws",
      `${ws}?ticket=ada`,
      "--origin",
      origin,
      "--subprotocol",
      "v1",
      "--message",
      "hello",
      "--heartbeat",
      "25",
      "--budget",
      "40",
    );
    expect(found.failed).toEqual([]);
    expect(found.passed).toContain("ws-violations-survived");
    expect(found.passed).toContain("ws-origin-checked");
  }, 120_000);
});
