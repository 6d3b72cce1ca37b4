import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import PartySocket from "partysocket/ws";
import ReconnectingWebSocketModule from "reconnecting-websocket";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { WebSocket as PackageSocket } from "ws";
import { CLOSE_CODES, type ClientOptions, type Data, WebSocketClient } from "../src/websocket/client.ts";
import { CreditError, type CreditMessage, creditedMessages } from "../src/websocket/flow.ts";
import { Outbox, OutboxFullError } from "../src/websocket/outbox.ts";
import { load, openPage } from "./support/browser.ts";
import { eventually, serve, signal } from "./support/server.ts";
import { serveSockets } from "./support/websocket.ts";

type Patterns = typeof import("../src/websocket/client.ts") & typeof import("../src/websocket/flow.ts");
declare const pattern: Patterns;

/** A client that is closed with the test, and what it saw. */
function open(
  url: string,
  options: Partial<ClientOptions> = {},
): { client: WebSocketClient; states: string[]; messages: Data[] } {
  const states: string[] = [];
  const messages: Data[] = [];
  const client = new WebSocketClient({
    url: () => url,
    onOpen: () => undefined,
    onMessage: (data) => void messages.push(data),
    onState: (state, code) => states.push(state === "stopped" ? `${state} ${code}` : state),
    minDelay: 1,
    maxDelay: 5,
    ...options,
  });
  onTestFinished(() => client.close());
  return { client, states, messages };
}

/** The upper end of every random delay. */
function slowest(): void {
  const spy = vi.spyOn(Math, "random").mockReturnValue(1);
  onTestFinished(() => spy.mockRestore());
}

describe("WebSocketClient", () => {
  test("comes back and asks for the url again", async () => {
    const tickets: string[] = [];
    const server = await serveSockets((socket, nth, request) => {
      tickets.push(request.url!);
      if (nth < 3) socket.close(1012);
    });
    let ticket = 0;
    const { states } = open("", { url: () => `${server.ws}/?ticket=${++ticket}` });
    await eventually(() => tickets.length === 3);
    expect(tickets).toEqual(["/?ticket=1", "/?ticket=2", "/?ticket=3"]);
    expect(states.slice(0, 4)).toEqual(["connecting", "open", "waiting", "connecting"]);
  });

  test("says after which close code it waits, for a page that must get a new token", async () => {
    const server = await serveSockets((socket, nth) => void (nth === 1 && socket.close(4408)));
    const waits: (number | undefined)[] = [];
    open(server.ws, { onState: (state, code) => void (state === "waiting" && waits.push(code)) });
    await eventually(() => server.sockets.length === 2);
    expect(waits).toEqual([4408]);
  });

  test("with an admission it is open, and sends, once the server has accepted the first message", async () => {
    const received: string[] = [];
    const server = await serveSockets((socket, nth) => {
      socket.on("message", (data) => {
        received.push(`${nth} ${String(data)}`);
        if (String(data) === "token 1") socket.send("notice");
        if (String(data).startsWith("token")) socket.send("ready");
        if (String(data) === "cut") socket.terminate();
      });
    });
    let token = 0;
    const { client, states, messages } = open(server.ws, {
      admission: {
        request: () => `token ${++token}`,
        isAccepted: (data) => !client.send("too early") && data === "ready",
      },
      onOpen: (client) => void client.send("subscribe"),
    });
    await eventually(() => received.length === 2);
    expect(client.send("cut")).toBe(true);
    await eventually(() => received.length === 5);
    expect(received).toEqual(["1 token 1", "1 subscribe", "1 cut", "2 token 2", "2 subscribe"]);
    expect(states).toEqual(["connecting", "open", "waiting", "connecting", "open"]);
    expect(messages).toEqual(["notice"]);
  });

  test("an admission that is not answered, refused, or throws ends as a handshake does", async () => {
    const silent = await serveSockets(() => undefined);
    const request = (): string => "token";
    const isAccepted = (): boolean => false;
    const waits: (number | undefined)[] = [];
    open(silent.ws, {
      admission: { request, isAccepted },
      handshakeTimeout: 50,
      onState: (state, code) => void (state === "waiting" && waits.push(code)),
    });
    await eventually(() => silent.sockets.length >= 2);
    expect(waits[0]).toBe(1006);
    const strict = await serveSockets((socket) => socket.on("message", () => socket.close(4401)));
    const refused = open(strict.ws, { admission: { request, isAccepted } });
    await eventually(() => refused.states.at(-1) === "stopped 4401");
    const answering = await serveSockets((socket) => socket.on("message", () => socket.send("?")));
    const wrong = (): never => {
      throw new Error("mistake");
    };
    for (const admission of [
      { request: wrong, isAccepted },
      { request, isAccepted: wrong },
    ]) {
      const { states } = open(answering.ws, { admission });
      await eventually(() => states.at(-1) === "stopped 4000");
    }
  });

  test("stops on the codes that say it is pointless", async () => {
    const final = Object.keys(CLOSE_CODES).filter((code) => CLOSE_CODES[Number(code)] === "stop");
    expect(final).toEqual(["1008", "4401", "4403"]);
    for (const code of [...final.map(Number), 4999]) {
      const server = await serveSockets((socket) => socket.close(code));
      const { states } = open(server.ws, { closeCodes: { 4999: "stop" } });
      await eventually(() => states.at(-1)!.startsWith("stopped"));
      expect(states.at(-1)).toBe(`stopped ${code}`);
      expect(server.sockets.length).toBe(1);
    }
  });

  test("an expired session and a rate limit are retried, the latter later", async () => {
    slowest();
    for (const [code, wait] of [
      [1012, 10],
      [4408, 10],
      [1013, 80],
      [4029, 80],
    ] as const) {
      const times: number[] = [];
      const urls: string[] = [];
      const server = await serveSockets((socket, nth, request) => {
        urls.push(request.url!);
        times.push(performance.now());
        if (nth === 1) socket.close(code);
      });
      let ticket = 0;
      open("", { url: () => `${server.ws}/${++ticket}`, minDelay: 10, maxDelay: 1_000 });
      await eventually(() => times.length === 2);
      expect(urls).toEqual(["/1", "/2"]);
      expect(times[1]! - times[0]!).toBeGreaterThanOrEqual(10 + wait - 2);
    }
  });

  test("the first message is the one of onOpen, and its error stops the client", async () => {
    const first: string[] = [];
    const server = await serveSockets((socket) => socket.once("message", (data) => first.push(data.toString())));
    const { client } = open(server.ws, {
      heartbeat: () => "ping",
      heartbeatEvery: 20,
      onOpen: (client) => void client.send("auth"),
    });
    await eventually(() => first.length === 1);
    expect(first).toEqual(["auth"]);
    client.close();
    const failed = open(server.ws, {
      onOpen: () => {
        throw new Error("no token");
      },
    });
    await eventually(() => failed.states.at(-1) === "stopped 4000");
  });

  test("a handshake that nobody answers is given up", async () => {
    let attempts = 0;
    const silent = createServer((socket) => {
      attempts += 1;
      socket.on("error", () => undefined);
    });
    silent.listen(0, "127.0.0.1");
    onTestFinished(() => void silent.close());
    await once(silent, "listening");
    const url = `ws://127.0.0.1:${(silent.address() as AddressInfo).port}`;
    open(url, { handshakeTimeout: 20 });
    await eventually(() => attempts >= 3);
    // As older versions of Node need it: a listener that is missing there ends the process.
    vi.stubGlobal("WebSocket", PackageSocket);
    onTestFinished(() => void vi.unstubAllGlobals());
    open(url, { handshakeTimeout: 20 });
    await eventually(() => attempts >= 6);
    // A ticket that does not come is a handshake too.
    let asked = 0;
    open("", {
      url: () => {
        asked += 1;
        return new Promise(() => undefined);
      },
      handshakeTimeout: 20,
    });
    await eventually(() => asked >= 3);
  });

  test("no delay is shorter than minDelay", async () => {
    const spy = vi.spyOn(Math, "random").mockReturnValue(0);
    onTestFinished(() => spy.mockRestore());
    const times: number[] = [];
    const server = await serveSockets((socket) => {
      times.push(performance.now());
      socket.close(1012);
    });
    open(server.ws, { minDelay: 40, maxDelay: 40 });
    await eventually(() => times.length === 4);
    for (const [at, time] of times.slice(1).entries()) expect(time - times[at]!).toBeGreaterThanOrEqual(38);
  });

  test("the delay grows, and an open connection alone does not reset it", async () => {
    slowest();
    const times: number[] = [];
    const server = await serveSockets((socket) => {
      times.push(performance.now());
      socket.close(1012);
    });
    open(server.ws, { minDelay: 10, maxDelay: 10_000 });
    await eventually(() => times.length === 6);
    const gaps = times.slice(1).map((time, at) => time - times[at]!);
    for (const [at, gap] of gaps.entries()) expect(gap).toBeGreaterThanOrEqual(10 * 2 ** at - 2);
  });

  test("a stable connection resets the delay", async () => {
    slowest();
    const server = await serveSockets((socket, nth) => void (nth < 12 && socket.close(1012)));
    // Doubled eleven times from 20 ms, the delays would add up to 40 s.
    open(server.ws, { minDelay: 20, maxDelay: 60_000, stableAfter: 0 });
    await eventually(() => server.sockets.length === 12);
  });

  test("close ends it at every moment", async () => {
    const server = await serveSockets((socket, nth) => void (nth < 4 && socket.close(1012)));
    slowest();
    const waiting = open(server.ws, { minDelay: 30 });
    await eventually(() => waiting.states.at(-1) === "waiting");
    waiting.client.close();
    const asking = open("", { url: () => new Promise((resolve) => setImmediate(() => resolve(server.ws))) });
    asking.client.close();
    // The reconnects of a third client are the clock: 30 ms and then 60 ms.
    open(server.ws, { minDelay: 30, maxDelay: 100 });
    await eventually(() => server.sockets.length === 4);
    expect(waiting.states.at(-1)).toBe("stopped 1000");
    expect(asking.states).toEqual(["connecting", "stopped 1000"]);
  });

  test("gives up a connection without a message for two heartbeats", async () => {
    const server = await serveSockets((socket, nth) => {
      socket.on("message", (data) => void (nth > 1 && socket.send(data.toString())));
    });
    const { states } = open(server.ws, { heartbeat: () => "ping", heartbeatEvery: 100 });
    await eventually(() => server.sockets.length === 2);
    expect(states).toContain("waiting");
  });

  test("messages are handled one after the other, and as array buffers", async () => {
    const server = await serveSockets((socket) => {
      for (let at = 0; at < 6; at++) socket.send(Buffer.from([at]));
      socket.send("end");
    });
    const handled: (number | string)[] = [];
    open(server.ws, {
      onMessage: async (data) => {
        // The earlier the message, the longer its work.
        const value = typeof data === "string" ? data : new Uint8Array(data)[0]!;
        await new Promise((resolve) => setTimeout(resolve, typeof value === "number" ? 12 - 2 * value : 0));
        handled.push(value);
      },
    });
    await eventually(() => handled.length === 7);
    expect(handled).toEqual([0, 1, 2, 3, 4, 5, "end"]);
  });

  test("too many unhandled messages end the connection, and it resumes", async () => {
    const closed: number[] = [];
    const server = await serveSockets((socket, nth) => {
      socket.on("close", (code) => closed.push(code));
      for (let at = 0; at < 20 && nth === 1; at++) socket.send("x");
    });
    const { promise, resolve } = signal();
    open(server.ws, { maxPending: 10, onMessage: () => promise });
    // The server may hear of the second connection before it has seen the end of the first.
    await eventually(() => server.sockets.length === 2 && closed.length > 0);
    resolve();
    expect(closed).toEqual([4008]);
  });

  test("an error of the handler stops it with that error", async () => {
    const server = await serveSockets((socket) => socket.send("x"));
    const stopped = signal<unknown>();
    open(server.ws, {
      onMessage: () => Promise.reject(new Error("disk full")),
      onState: (state, _, error) => void (state === "stopped" && stopped.resolve(error)),
    });
    expect(await stopped.promise).toEqual(new Error("disk full"));
    expect(server.sockets.length).toBe(1);
  });

  test("a ticket that cannot be had is asked for again, a wrong url is not", async () => {
    const server = await serveSockets(() => undefined);
    let asked = 0;
    open("", { url: () => (++asked < 3 ? Promise.reject(new Error("503")) : server.ws) });
    await eventually(() => server.sockets.length === 1);
    const { states } = open("ws://");
    await eventually(() => states.at(-1) === "stopped 1000");
    expect(states).toEqual(["connecting", "stopped 1000"]);
  });

  test("send says false when nothing is open and when too much waits", async () => {
    const server = await serveSockets((socket) => socket.pause());
    const { client, states } = open(server.ws, { maxBuffered: 100_000 });
    expect(client.send("early")).toBe(false);
    await eventually(() => states.at(-1) === "open");
    let sent = 0;
    while (client.send("x".repeat(64 * 1024))) sent += 1;
    expect(sent).toBeGreaterThan(0);
    client.close();
    expect(client.send("late")).toBe(false);
  });
});

/** A socket in memory: `answers` decides whether a heartbeat is answered, and `later` holds answers back. */
class FakeSocket {
  static OPEN = 1;
  static made: FakeSocket[] = [];
  static answers = true;
  static held: (() => void)[] | undefined;
  readyState = 0;
  bufferedAmount = 0;
  beats: number[] = [];
  onopen?: () => void;
  onmessage?: (event: { data: string }) => void;
  constructor() {
    FakeSocket.made.push(this);
    queueMicrotask(() => {
      this.readyState = 1;
      this.onopen?.();
    });
  }
  send(): void {
    this.beats.push(performance.now());
    const answer = (): void => this.onmessage?.({ data: "pong" });
    if (FakeSocket.held !== undefined) FakeSocket.held.push(answer);
    else if (FakeSocket.answers) queueMicrotask(answer);
  }
  close(): void {
    this.readyState = 3;
  }
}

describe("timers that are late", () => {
  function fake(): void {
    vi.useFakeTimers();
    vi.stubGlobal("WebSocket", FakeSocket);
    Object.assign(FakeSocket, { made: [], answers: true, held: undefined });
    onTestFinished(() => {
      vi.unstubAllGlobals();
      vi.useRealTimers();
    });
  }

  /** As in a hidden page of Chromium: timers run when a minute is full. */
  function throttle(): void {
    const real = globalThis.setTimeout;
    vi.stubGlobal("setTimeout", (run: () => void, ms: number) => {
      const due = Math.ceil((performance.now() + ms) / 60_000) * 60_000;
      return real(run, due - performance.now());
    });
  }

  test("a hidden tab keeps a connection that answers for an hour", async () => {
    fake();
    open("ws://hidden", { heartbeat: () => "ping" });
    await vi.advanceTimersByTimeAsync(20_000);
    throttle();
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(FakeSocket.made).toHaveLength(1);
    expect(FakeSocket.made[0]!.beats.length).toBeGreaterThan(55);
  });

  test("a dead connection is noticed, in a hidden tab too", async () => {
    for (const hidden of [false, true]) {
      fake();
      open("ws://dead", { heartbeat: () => "ping", minDelay: 1_000, maxDelay: 1_000 });
      await vi.advanceTimersByTimeAsync(20_000);
      if (hidden) throttle();
      FakeSocket.answers = false;
      await vi.advanceTimersByTimeAsync(hidden ? 240_000 : 33_000);
      expect(FakeSocket.made.length).toBeGreaterThanOrEqual(2);
      vi.unstubAllGlobals();
    }
  });

  test("a page that was frozen sees the answer that waits before it judges", async () => {
    fake();
    open("ws://frozen", { heartbeat: () => "ping" });
    await vi.advanceTimersByTimeAsync(14_000);
    FakeSocket.held = []; // what comes is not seen while the page is frozen
    await vi.advanceTimersByTimeAsync(2_000); // one heartbeat
    expect(FakeSocket.held).toHaveLength(1);
    vi.setSystemTime(Date.now() + 600_000);
    const now = performance.now();
    const spy = vi.spyOn(performance, "now").mockImplementation(() => now + 600_000);
    await vi.advanceTimersByTimeAsync(14_000); // the timer runs first
    for (const answer of FakeSocket.held.splice(0)) answer();
    FakeSocket.held = undefined;
    spy.mockRestore();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.made).toHaveLength(1);
  });
});

describe("in Chromium", () => {
  test("online and a visible page end the wait at once", async () => {
    for (const event of ["online", "visibilitychange"]) {
      const server = await serveSockets((socket, nth) => void (nth === 1 && socket.close(1012)));
      const page = await openPage(server.origin);
      await load(page, "websocket/client.ts");
      await page.evaluate(async (url) => {
        Math.random = () => 1;
        await new Promise<void>((resolve) => {
          new pattern.WebSocketClient({
            url: () => url,
            onOpen: () => undefined,
            onMessage: () => undefined,
            onState: (state) => state === "waiting" && resolve(),
            minDelay: 600_000,
            maxDelay: 600_000,
          });
        });
      }, server.ws);
      await page.evaluate((event) => (event === "online" ? window : document).dispatchEvent(new Event(event)), event);
      await eventually(() => server.sockets.length === 2);
    }
  });

  test("online gives up a handshake that is not answered", async () => {
    let asked = 0;
    const http = (await serve({})).http;
    http.on("upgrade", () => void (asked += 1)); // and no answer
    const { port } = http.address() as AddressInfo;
    const page = await openPage(`http://127.0.0.1:${port}`);
    await load(page, "websocket/client.ts");
    await page.evaluate((url) => {
      new pattern.WebSocketClient({
        url: () => url,
        onOpen: () => undefined,
        onMessage: () => undefined,
        handshakeTimeout: 600_000,
      });
    }, `ws://127.0.0.1:${port}`);
    await eventually(() => asked === 1);
    // Chromium opens one connection to a host at a time; the first must be closed for the second to be sent.
    await page.evaluate(() => window.dispatchEvent(new Event("online")));
    await eventually(() => asked === 2);
  });

  test("resumes by sequence number without gap or duplicate over cut connections", async () => {
    const server = await serveSockets((socket, nth) => {
      socket.on("message", (data) => {
        const { resume } = JSON.parse(data.toString()) as { resume: number };
        // One more each time, then the connection is cut without a closing handshake.
        for (let seq = resume + 1; seq <= Math.min(nth * 3, 9); seq++) socket.send(JSON.stringify({ seq }));
        if (nth < 3) socket.send("flush", () => socket.terminate());
      });
    });
    const page = await openPage(server.origin);
    await load(page, "websocket/client.ts");
    const seen = await page.evaluate(
      (url) =>
        new Promise<number[]>((resolve) => {
          const seen: number[] = [];
          let last = 0;
          const client = new pattern.WebSocketClient({
            url: () => url,
            minDelay: 1,
            maxDelay: 5,
            onOpen: (client) => void client.send(JSON.stringify({ resume: last })),
            onMessage: (data) => {
              if (data === "flush") return;
              const { seq } = JSON.parse(data as string) as { seq: number };
              if (seq <= last) return;
              seen.push((last = seq));
              if (seq !== 9) return;
              client.close();
              resolve(seen);
            },
          });
        }),
      server.ws,
    );
    expect(seen).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  test("credits hold the server to the window", async () => {
    const ahead = { most: 0 };
    const server = await serveSockets((socket) => {
      let credit = 0;
      let sent = 0;
      let granted = 0;
      socket.on("message", (data) => {
        const { count } = JSON.parse(data.toString()) as CreditMessage;
        credit += count;
        granted += count;
        while (credit > 0 && sent < 200) {
          credit -= 1;
          socket.send(String(sent++));
        }
        ahead.most = Math.max(ahead.most, sent - (granted - 8));
        if (sent === 200) socket.close(1000);
      });
    });
    const page = await openPage(server.origin);
    await load(page, "websocket/flow.ts");
    const numbers = await page.evaluate(async (url) => {
      const socket = new WebSocket(url);
      await new Promise((resolve) => (socket.onopen = resolve));
      const numbers = [];
      for await (const data of pattern.creditedMessages(socket, 8)) {
        await new Promise((resolve) => setTimeout(resolve, 0));
        numbers.push(Number(data));
      }
      return numbers;
    }, server.ws);
    expect(numbers).toEqual(Array.from({ length: 200 }, (_, at) => at));
    expect(ahead.most).toBeLessThanOrEqual(8);
  });
});

describe("creditedMessages", () => {
  test("a server that sends without credit is an error", async () => {
    const server = await serveSockets((socket) => {
      for (let at = 0; at < 10; at++) socket.send("x");
    });
    const socket = new WebSocket(server.ws);
    await expect(
      (async () => {
        for await (const _ of creditedMessages(socket, 4)) await new Promise((resolve) => setTimeout(resolve, 1));
      })(),
    ).rejects.toThrow(CreditError);
  });
});

describe("Outbox", () => {
  test("commands survive a reconnect in order and take effect once", async () => {
    const applied: string[] = [];
    const known = new Set<string>();
    const server = await serveSockets((socket, nth) => {
      socket.on("message", (data) => {
        const { id, body } = JSON.parse(data.toString()) as { id: string; body: string };
        if (!known.has(id)) applied.push(body);
        known.add(id);
        // The first connection is cut after the effect and before the answer.
        if (nth === 1) socket.terminate();
        else socket.send(id);
      });
    });
    const outbox = new Outbox<string>((command) => client.send(JSON.stringify(command)));
    const { client } = open(server.ws, {
      onOpen: () => outbox.resend(),
      onMessage: (id) => outbox.acknowledge(id as string, undefined),
    });
    await Promise.all(["a", "b", "c"].map((body) => outbox.send(body)));
    expect(applied).toEqual(["a", "b", "c"]);
    expect(outbox.size).toBe(0);
    expect(server.sockets.length).toBe(2);
  });

  test("is bounded, and what expires is reported and not sent", async () => {
    const sent: string[] = [];
    let online = false;
    const outbox = new Outbox<string>(({ body }) => online && sent.push(body) > 0, { maxCommands: 1, timeToLive: 20 });
    const first = outbox.send("old");
    await expect(outbox.send("second")).rejects.toThrow(OutboxFullError);
    await expect(first).rejects.toMatchObject({ name: "CommandExpiredError", sent: false });
    online = true;
    const next = outbox.send("new");
    outbox.resend();
    await expect(next).rejects.toMatchObject({ name: "CommandExpiredError", sent: true });
    expect(new Set(sent)).toEqual(new Set(["new"]));
  });
});

describe("Outbox and its window", () => {
  test("no more than the window waits for answers, and an answer makes room", async () => {
    const sent: string[] = [];
    const outbox: Outbox<string> = new Outbox((command) => sent.push(command.id) > 0);
    const all = Array.from({ length: 40 }, () => outbox.send("x"));
    expect(sent).toHaveLength(16);
    for (let at = 0; at < 40; at++) {
      outbox.acknowledge(sent[at]!, undefined);
      await eventually(() => sent.length === Math.min(40, 17 + at));
    }
    await Promise.all(all);
  });

  test("what the server refuses for its rate is sent again, no faster than it allows", async () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const sent: number[] = [];
    const applied: number[] = [];
    // A bucket of 5, refilled by one in 100 ms.
    let tokens = 5;
    let at = performance.now();
    const outbox: Outbox<number> = new Outbox(({ id, body }) => {
      sent.push(body);
      tokens = Math.min(5, tokens + (performance.now() - at) / 100);
      at = performance.now();
      const ok = tokens >= 1;
      if (ok) {
        tokens -= 1;
        applied.push(body);
      }
      setTimeout(() => (ok ? outbox.acknowledge(id, undefined) : outbox.hold(id, 100)), 5);
      return true;
    });
    const all = Promise.all(Array.from({ length: 45 }, (_, n) => outbox.send(n)));
    await vi.advanceTimersByTimeAsync(10_000);
    await all;
    expect(applied.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 45 }, (_, n) => n));
    expect(sent.length - 45).toBeLessThanOrEqual(16); // the refusals: those of the first window, and no storm
  });

  test("works where crypto.randomUUID is missing, as on http://192.168.0.7", async () => {
    vi.stubGlobal("crypto", { getRandomValues: crypto.getRandomValues.bind(crypto) });
    onTestFinished(() => void vi.unstubAllGlobals());
    const ids = new Set<string>();
    const outbox: Outbox<string> = new Outbox((command) => {
      ids.add(command.id);
      queueMicrotask(() => outbox.acknowledge(command.id, undefined));
      return true;
    });
    await Promise.all([outbox.send("a"), outbox.send("b")]);
    expect(ids.size).toBe(2);
  });
});

describe("npm packages", () => {
  test("reconnecting-websocket and partysocket come back after 4401 too: the page has to close them", async () => {
    const packages = [
      ReconnectingWebSocketModule as unknown as typeof ReconnectingWebSocketModule.default,
      PartySocket,
    ];
    for (const Package of packages) {
      const server = await serveSockets((socket, nth) => void (nth === 1 && socket.close(4401)));
      const socket = new Package(server.ws, [], { WebSocket, minReconnectionDelay: 1, maxReconnectionDelay: 5 });
      onTestFinished(() => socket.close());
      await eventually(() => server.sockets.length === 2);
    }
  });

  test("what they queue while offline is sent once and lost with a connection that takes it", async () => {
    const packages = [
      ReconnectingWebSocketModule as unknown as typeof ReconnectingWebSocketModule.default,
      PartySocket,
    ];
    for (const Package of packages) {
      const received: string[] = [];
      const server = await serveSockets((socket, nth) => {
        if (nth === 1) return socket.terminate(); // taken over by the kernel, never read
        socket.on("message", (data) => received.push(data.toString()));
      });
      const socket = new Package(server.ws, [], { WebSocket, minReconnectionDelay: 1, maxReconnectionDelay: 5 });
      onTestFinished(() => socket.close());
      socket.send("order");
      await eventually(() => server.sockets.length === 2);
      await eventually(() => socket.readyState === 1);
      socket.send("later");
      await eventually(() => received.includes("later"));
      expect(received).toEqual(["later"]);
    }
  });
});
