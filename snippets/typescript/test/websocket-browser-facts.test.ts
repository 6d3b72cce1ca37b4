// What Chromium's WebSocket does, as the chapters state it.
import { describe, expect, test } from "vitest";
import { load, openPage } from "./support/browser.ts";
import { eventually, serve } from "./support/server.ts";
import { serveSockets } from "./support/websocket.ts";

type Flow = typeof import("../src/websocket/flow.ts");
declare const pattern: Flow;

describe("WebSocket", () => {
  test("reads on while its handlers wait; WebSocketStream stops the server", async () => {
    const limit = 64 * 1024 * 1024;
    const chunk = Buffer.alloc(256 * 1024);
    const written: Record<string, number> = { "/socket": 0, "/stream": 0 };
    const server = await serveSockets((socket, _, request) => {
      const path = request.url!;
      const send = (): void => {
        if (written[path]! >= limit || socket.readyState !== socket.OPEN) return;
        written[path]! += chunk.length;
        socket.send(chunk, send); // called when the kernel has taken it
      };
      send();
    });
    const page = await openPage(server.origin);
    await load(page, "websocket/flow.ts");
    const started = page.evaluate(async (url) => {
      const { promise: stuck, resolve: unstick } = Promise.withResolvers<void>();
      const stream = pattern.streamedMessages(`${url}/stream`)!;
      await stream.next();
      let started = 0;
      const socket = new WebSocket(`${url}/socket`);
      Object.assign(window, { stream, unstick });
      return new Promise<number>((resolve) => {
        socket.onmessage = async () => {
          if (++started === 256) resolve(started);
          await stuck;
        };
      });
    }, server.ws);
    expect(await started).toBe(256);
    expect(written["/socket"]).toBe(limit);
    expect(written["/stream"]).toBeLessThan(limit / 2);
  });

  test("send never blocks, and bufferedAmount keeps growing also after close", async () => {
    const server = await serveSockets((socket) => socket.pause());
    const page = await openPage(server.origin);
    const result = await page.evaluate(async (url) => {
      const socket = new WebSocket(url);
      await new Promise((resolve) => (socket.onopen = resolve));
      const megabyte = "x".repeat(1024 * 1024);
      for (let at = 0; at < 32; at++) socket.send(megabyte);
      const open = { state: socket.readyState, buffered: socket.bufferedAmount };
      socket.close();
      const before = socket.bufferedAmount;
      socket.send(megabyte); // no error, and it goes nowhere
      return { ...open, closing: socket.readyState, grown: socket.bufferedAmount - before };
    }, server.ws);
    expect(result.state).toBe(1);
    expect(result.buffered).toBeGreaterThan(16 * 1024 * 1024);
    expect(result.closing).toBe(2);
    expect(result.grown).toBeGreaterThanOrEqual(1024 * 1024);
  });

  test("send throws before the connection is open and drops silently after it", async () => {
    const received: string[] = [];
    const server = await serveSockets((socket) => socket.on("message", (data) => received.push(data.toString())));
    const page = await openPage(server.origin);
    const early = await page.evaluate(async (url) => {
      const socket = new WebSocket(url);
      let early = "";
      try {
        socket.send("early");
      } catch (error) {
        early = (error as DOMException).name;
      }
      await new Promise((resolve) => (socket.onopen = resolve));
      socket.send("sent");
      socket.close();
      socket.send("late");
      await new Promise((resolve) => (socket.onclose = resolve));
      socket.send("later");
      return early;
    }, server.ws);
    expect(early).toBe("InvalidStateError");
    expect(received).toEqual(["sent"]);
  });

  test("close takes 1000 and 3000 to 4999 and a reason of 123 bytes", async () => {
    const server = await serveSockets(() => undefined);
    const page = await openPage(server.origin);
    const errors = await page.evaluate((url) => {
      const attempt = (code: number, reason = ""): string => {
        const socket = new WebSocket(url);
        try {
          socket.close(code, reason);
          return "ok";
        } catch (error) {
          return (error as DOMException).name;
        }
      };
      const codes = [999, 1000, 1001, 1008, 1011, 1013, 2999, 3000, 4999, 5000].map(
        (code) => `${code} ${attempt(code)}`,
      );
      return [...codes, `123 ${attempt(1000, "é".repeat(61) + "x")}`, `124 ${attempt(1000, "é".repeat(62))}`];
    }, server.ws);
    expect(errors).toEqual([
      "999 InvalidAccessError",
      "1000 ok",
      "1001 InvalidAccessError",
      "1008 InvalidAccessError",
      "1011 InvalidAccessError",
      "1013 InvalidAccessError",
      "2999 InvalidAccessError",
      "3000 ok",
      "4999 ok",
      "5000 InvalidAccessError",
      "123 ok",
      "124 SyntaxError",
    ]);
  });

  test("sees the server's codes, and 1006 for every refused handshake", async () => {
    const codes = [1000, 1001, 1008, 1011, 1012, 1013, 4401];
    const server = await serveSockets((socket, _, request) => {
      if (request.url === "/killed")
        socket.terminate(); // as when the process ends: no Close
      else socket.close(Number(request.url!.slice(1)));
    });
    const refusing = await serveSockets(() => undefined, {
      noServer: false,
      verifyClient: (_info: object, done: (ok: boolean, code: number) => void) => done(false, 401),
    });
    const page = await openPage(server.origin);
    const seen = await page.evaluate(
      async (urls) => {
        const seen: string[] = [];
        for (const url of urls) {
          const socket = new WebSocket(url);
          const event = await new Promise<CloseEvent>((resolve) => (socket.onclose = resolve));
          seen.push(`${event.code} ${event.wasClean} ${event.reason}`);
        }
        return seen;
      },
      [...codes.map((code) => `${server.ws}/${code}`), refusing.ws, `${server.ws}/killed`],
    );
    expect(seen).toEqual([...codes.map((code) => `${code} true `), "1006 false ", "1006 false "]);
  });

  test("offers no ping", async () => {
    const page = await openPage((await serve({})).origin);
    const names = await page.evaluate(() => ["ping", "onping", "onpong"].filter((name) => name in WebSocket.prototype));
    expect(names).toEqual([]);
  });

  test("a protocol must be a token, and the server must select one of those offered", async () => {
    const server = await serveSockets(() => undefined, { handleProtocols: () => false });
    const page = await openPage(server.origin);
    const result = await page.evaluate(async (url) => {
      const errors = ["bearer.abc", "bearer.a=b", "bearer.a/b"].map((protocol) => {
        try {
          new WebSocket(url, [protocol]).close();
          return "ok";
        } catch (error) {
          return (error as DOMException).name;
        }
      });
      const socket = new WebSocket(url, ["app.v1"]);
      const event = await new Promise<CloseEvent>((resolve) => (socket.onclose = resolve));
      return [...errors, event.code];
    }, server.ws);
    expect(result).toEqual(["ok", "SyntaxError", "SyntaxError", 1006]);
  });

  test("sends SameSite=Strict cookies to another port and to a sibling subdomain, whatever page asks", async () => {
    const cookies: (string | undefined)[] = [];
    const server = await serveSockets((_, __, request) => cookies.push(request.headers.cookie));
    const attacker = await serve({});
    const page = await openPage(attacker.origin);
    await page.context().addCookies([{ name: "sid", value: "1", url: server.origin, sameSite: "Strict" }]);
    await page.evaluate((url) => void new WebSocket(url), server.ws);
    await eventually(() => cookies.length === 1);
    expect(cookies).toEqual(["sid=1"]);
    // The page of another site does not get it along: an Origin check is still what tells them apart.
    const foreign = await openPage(attacker.origin.replace("127.0.0.1", "localhost"), page.context());
    await foreign.evaluate((url) => void new WebSocket(url), server.ws);
    await eventually(() => cookies.length === 2);
    expect(cookies[1]).toBeUndefined();
    // A cookie of one host alone, set by its own server: it is sent when a page of the sibling asks.
    const app = (origin: string): string => origin.replace("127.0.0.1", "app.example.localhost");
    await page.context().addCookies([{ name: "sid", value: "2", url: app(server.origin), sameSite: "Strict" }]);
    const sibling = await openPage(
      attacker.origin.replace("127.0.0.1", "user-pages.example.localhost"),
      page.context(),
    );
    await sibling.evaluate((url) => void new WebSocket(url), app(server.ws));
    await eventually(() => cookies.length === 3);
    expect(cookies[2]).toBe("sid=2");
  });
});
