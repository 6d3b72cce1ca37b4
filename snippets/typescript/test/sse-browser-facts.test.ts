// What Chromium's EventSource does, as the chapters state it.
import { describe, expect, test } from "vitest";
import { load, newContext, openPage } from "./support/browser.ts";
import { eventually, gone, serve, signal, sse } from "./support/server.ts";

type Connect = typeof import("../src/sse/connect.ts");
declare const pattern: Connect;

describe("EventSource", () => {
  test("runs the handler again after a clean end, until the page closes it", async () => {
    const server = await serve({
      "/done": (_, response) => void sse(response, "retry: 20\ndata: all\n\n").end(),
      "/closed": (_, response) => void sse(response, "retry: 20\nevent: done\ndata: {}\n\n").end(),
    });
    const page = await openPage(server.origin);
    await page.evaluate(() => {
      new EventSource("/done");
      const source = new EventSource("/closed");
      source.addEventListener("done", () => source.close());
    });
    await eventually(() => (server.hits.get("/done") ?? 0) >= 10);
    expect(server.hits.get("/closed")).toBe(1);
  });

  test("waits about three seconds by default and obeys retry: 0", async () => {
    const times: number[] = [];
    const server = await serve({
      "/default": (_, response) => {
        times.push(performance.now());
        sse(response, "data: a\n\n").end();
      },
      "/zero": (_, response) => void sse(response, "retry: 0\n\n").end(),
    });
    const page = await openPage(server.origin);
    await page.evaluate(() => {
      new EventSource("/default");
      new EventSource("/zero");
    });
    await eventually(() => times.length >= 2 && server.hits.get("/zero")! >= 16);
    expect(times[1]! - times[0]!).toBeGreaterThan(2_900);
    // Sixteen in the time of one or two, however slow the machine: with the same delay they would be as many.
    expect(times.length).toBeLessThan(12);
  });

  test("is closed for good by every answer but 200 with an event stream", async () => {
    const answers: Record<string, [number, string]> = {
      "/204": [204, "text/event-stream"],
      "/205": [205, "text/event-stream"],
      "/401": [401, "text/event-stream"],
      "/404": [404, "text/event-stream"],
      "/429": [429, "text/event-stream"],
      "/500": [500, "text/event-stream"],
      "/503": [503, "text/event-stream"],
      "/json": [200, "application/json"],
      "/latin1": [200, "text/event-stream;charset=ISO-8859-1"],
    };
    const server = await serve(
      Object.fromEntries(
        Object.entries(answers).map(([path, [status, type]]) => [
          path,
          (_, response) => void response.writeHead(status, { "content-type": type, "retry-after": "0" }).end(),
        ]),
      ),
    );
    const page = await openPage(server.origin);
    const results = await page.evaluate(async (paths) => {
      const states: Record<string, [number, string]> = {};
      for (const path of paths) {
        await new Promise<void>((resolve) => {
          const source = new EventSource(path);
          source.onerror = (event) => {
            // Nothing in it says why.
            states[path] = [source.readyState, event.constructor.name];
            resolve();
          };
        });
      }
      return states;
    }, Object.keys(answers));
    for (const path of Object.keys(answers)) {
      expect(results[path], path).toEqual([2, "Event"]);
      expect(server.hits.get(path), path).toBe(1);
    }
  });

  test("is closed for good by a 503 on a reconnect", async () => {
    const server = await serve({
      "/flap": (_, response, nth) => {
        if (nth === 1) sse(response, "retry: 10\ndata: a\n\n").end();
        else response.writeHead(503).end();
      },
      "/clock": (_, response) => void sse(response, "retry: 10\n\n").end(),
    });
    const page = await openPage(server.origin);
    const state = await page.evaluate(
      () =>
        new Promise<number>((resolve) => {
          const source = new EventSource("/flap");
          source.onerror = () => source.readyState === 2 && resolve(source.readyState);
        }),
    );
    expect(state).toBe(2);
    await page.evaluate(() => void new EventSource("/clock"));
    await eventually(() => (server.hits.get("/clock") ?? 0) >= 10);
    expect(server.hits.get("/flap")).toBe(2);
  });

  test("follows redirects and comes back after a reset", async () => {
    const server = await serve({
      "/301": (_, response) => void response.writeHead(301, { location: "/events" }).end(),
      "/307": (_, response) => void response.writeHead(307, { location: "/events" }).end(),
      "/308": (_, response) => void response.writeHead(308, { location: "/events" }).end(),
      "/events": (_, response) => void sse(response, "data: a\n\n"),
      "/reset": (_, response) => {
        sse(response, "retry: 10\n\n");
        setImmediate(() => response.socket?.resetAndDestroy());
      },
    });
    const page = await openPage(server.origin);
    await page.evaluate(async () => {
      for (const path of ["/301", "/307", "/308"]) {
        const source = new EventSource(path);
        await new Promise((resolve) => (source.onmessage = resolve));
        source.close();
      }
      new EventSource("/reset");
    });
    expect(server.hits.get("/events")).toBe(3);
    await eventually(() => (server.hits.get("/reset") ?? 0) >= 3);
  });

  test("only the same object sends the cursor again: a new one and a reload start without", async () => {
    const cursors: (string | undefined)[] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        cursors.push(request.headers["last-event-id"] as string | undefined);
        sse(response, `retry: 10\nid: ${nth}\ndata: a\n\n`);
        if (nth === 1) response.end();
      },
    });
    const page = await openPage(server.origin);
    const listen = (): Promise<void> =>
      page.evaluate(
        () =>
          new Promise<void>((resolve) => {
            const source = new EventSource("/events");
            source.onmessage = (event) => {
              if (event.lastEventId === "1") return; // the response ends here; the next one comes by itself
              source.close();
              resolve();
            };
          }),
      );
    await listen();
    await listen();
    await page.reload();
    await listen();
    expect(cursors).toEqual([undefined, "1", undefined, undefined]);
  });

  test("keeps the id over events without one, also over a reconnect", async () => {
    const cursors: (string | undefined)[] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        cursors.push(request.headers["last-event-id"] as string | undefined);
        sse(response, nth === 1 ? "retry: 10\nid: 5\ndata: a\n\ndata: b\n\n" : "data: c\n\n");
        if (nth < 3) response.end();
      },
    });
    const page = await openPage(server.origin);
    const ids = await page.evaluate(
      () =>
        new Promise<string[]>((resolve) => {
          const ids: string[] = [];
          new EventSource("/events").onmessage = (event) => ids.push(event.lastEventId) === 4 && resolve(ids);
        }),
    );
    expect(ids).toEqual(["5", "5", "5", "5"]);
    expect(cursors).toEqual([undefined, "5", "5"]);
  });

  test("the cursor moves with a complete block only, with or without data, and an empty id removes it", async () => {
    const streams = ["id: 1\ndata: a\n\nid: 2\ndata: lost\n", "id: 9\n\n", "id\ndata: b\n\n", ""];
    const cursors: (string | undefined)[] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        cursors.push(request.headers["last-event-id"] as string | undefined);
        sse(response, `retry: 10\n\n${streams[nth - 1] ?? ""}`);
        if (nth < streams.length) response.end();
      },
    });
    const page = await openPage(server.origin);
    await page.evaluate(() => void new EventSource("/events"));
    await eventually(() => cursors.length === 4);
    expect(cursors).toEqual([undefined, "1", "9", undefined]);
  });

  test("sends an id beyond ASCII as UTF-8 bytes", async () => {
    const cursor = signal<string>();
    const server = await serve({
      "/events": (request, response, nth) => {
        sse(response, "retry: 10\nid: é1\ndata: a\n\n");
        if (nth === 1) response.end();
        else cursor.resolve(request.headers["last-event-id"] as string);
      },
    });
    const page = await openPage(server.origin);
    await page.evaluate(() => void new EventSource("/events"));
    expect(Buffer.from(await cursor.promise, "latin1").toString("utf8")).toBe("é1");
  });

  test("a cross-origin fetch with Last-Event-ID asks for permission first, an EventSource that reconnects does not", async () => {
    const methods: string[] = [];
    const cursors: (string | undefined)[] = [];
    const other = await serve({
      "/events": (request, response) => {
        methods.push(request.method!);
        cursors.push(request.headers["last-event-id"] as string | undefined);
        response.setHeader("access-control-allow-origin", "*");
        response.setHeader("access-control-allow-headers", "*");
        if (request.method === "OPTIONS") response.writeHead(204).end();
        else sse(response, "retry: 10\nid: 1-5\ndata: a\n\n").end();
      },
    });
    const page = await openPage((await serve({})).origin);
    const url = `${other.origin}/events`;
    await page.evaluate(async (url) => void (await fetch(url, { headers: { "last-event-id": "1-5" } })).body, url);
    expect(methods).toEqual(["OPTIONS", "GET"]);
    methods.length = cursors.length = 0;
    await page.evaluate((url) => void new EventSource(url), url);
    await eventually(() => methods.length >= 2);
    expect(methods).not.toContain("OPTIONS");
    expect(cursors.slice(0, 2)).toEqual([undefined, "1-5"]);
  });

  test("a server's event named error fires the listeners of the connection's own", async () => {
    const server = await serve({
      "/events": (_, response) => void sse(response, 'event: error\ndata: {"code":"x"}\n\nevent: open\ndata: y\n\n'),
    });
    const page = await openPage(server.origin);
    const calls = await page.evaluate(
      () =>
        new Promise<string[]>((resolve) => {
          const calls: string[] = [];
          const source = new EventSource("/events");
          source.onerror = (event) => calls.push(`error ${event instanceof MessageEvent} ${source.readyState}`);
          source.onopen = (event) => {
            calls.push(`open ${event instanceof MessageEvent} ${source.readyState}`);
            if (calls.length === 3) resolve(calls);
          };
        }),
    );
    expect(calls).toEqual(["open false 1", "error true 1", "open true 1"]);
  });

  test("fires nothing for an event without data, and fires one with an empty data line", async () => {
    const server = await serve({
      "/events": (_, response) => void sse(response, "event: done\n\nevent: done\ndata\n\nevent: after\ndata: 1\n\n"),
    });
    const page = await openPage(server.origin);
    const seen = await page.evaluate(
      () =>
        new Promise<string[]>((resolve) => {
          const seen: string[] = [];
          const source = new EventSource("/events");
          source.addEventListener("done", (event) => seen.push(`done ${JSON.stringify(event.data)}`));
          source.addEventListener("after", () => resolve(seen));
        }),
    );
    expect(seen).toEqual(['done ""']);
  });

  test("cannot set a header, and needs an exact origin for credentials", async () => {
    const page_server = await serve({});
    const headers: Record<string, string>[] = [];
    const server = await serve({
      "/star": (_, response) => {
        response.setHeader("access-control-allow-origin", "*");
        sse(response, "data: a\n\n");
      },
      "/exact": (request, response) => {
        headers.push(request.headers as Record<string, string>);
        response.setHeader("access-control-allow-origin", page_server.origin);
        response.setHeader("access-control-allow-credentials", "true");
        sse(response, "data: a\n\n");
      },
    });
    const page = await openPage(page_server.origin);
    await page.context().addCookies([{ name: "sid", value: "1", url: server.origin }]);
    const states = await page.evaluate(async (origin) => {
      const state = (path: string, init: object): Promise<number> =>
        new Promise((resolve) => {
          const source = new EventSource(origin + path, init);
          source.onmessage = source.onerror = () => {
            resolve(source.readyState);
            source.close();
          };
        });
      return [
        await state("/star", {}),
        await state("/star", { withCredentials: true }),
        await state("/exact", { withCredentials: true, headers: { authorization: "Bearer x" } }),
        await state("/exact", {}),
      ];
    }, server.origin);
    expect(states).toEqual([1, 2, 1, 1]);
    expect(headers.map(({ cookie, authorization }) => [cookie, authorization])).toEqual([
      ["sid=1", undefined],
      [undefined, undefined],
    ]);
  });

  test("six of them block every other request to the origin, in all tabs", async () => {
    const opened = signal();
    let streams = 0;
    const server = await serve({
      "/events": (_, response) => {
        sse(response, "data: a\n\n");
        if (++streams === 6) opened.resolve();
      },
      "/api": (_, response) => void response.end("ok"),
    });
    const other = await serve({
      "/api": (_, response) => void response.setHeader("access-control-allow-origin", "*").end("ok"),
    });
    const context = await newContext();
    const [first, second] = [await openPage(server.origin, context), await openPage(server.origin, context)];
    await first.evaluate(() => {
      Object.assign(window, { sources: Array.from({ length: 6 }, () => new EventSource("/events")) });
    });
    await opened.promise;
    const blocked = second.evaluate(async () => (await fetch("/api")).text());
    // Another origin answers at once, so the browser had time to send both.
    for (let at = 0; at < 5; at++) {
      expect(await second.evaluate(async (url) => (await fetch(url)).text(), `${other.origin}/api`)).toBe("ok");
    }
    expect(server.hits.get("/api")).toBeUndefined();
    await first.evaluate(() => (window as unknown as { sources: EventSource[] }).sources[0]!.close());
    expect(await blocked).toBe("ok");
  });

  test("reads on while its handlers wait; fetch stops reading, if the response says no-store", async () => {
    const limit = 40 * 1024 * 1024;
    const chunk = `data: ${"x".repeat(64 * 1024)}\n\n`;
    const written = { "/source": 0, "/no-cache": 0, "/no-store": 0 };
    const flood = (path: keyof typeof written) => async (_: unknown, response: Parameters<typeof sse>[0]) => {
      const directive = path === "/source" ? "no-store" : path.slice(1);
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": directive });
      const closed = gone(response);
      while (written[path] < limit && !response.destroyed) {
        written[path] += chunk.length;
        if (!response.write(chunk))
          await Promise.race([new Promise((resolve) => response.once("drain", resolve)), closed]);
      }
    };
    const server = await serve({
      "/source": flood("/source"),
      "/no-cache": flood("/no-cache"),
      "/no-store": flood("/no-store"),
    });
    const page = await openPage(server.origin);
    await load(page, "sse/connect.ts");
    await page.evaluate(async () => {
      const { signal } = new AbortController();
      // One event of each is taken, and no more.
      const streams = ["/no-store", "/no-cache"].map((path) =>
        pattern.connect(new URL(path, location.href), { signal }),
      );
      for (const stream of streams) await stream.next();
      const { promise: stuck, resolve: unstick } = Promise.withResolvers<void>();
      let started = 0;
      const source = new EventSource("/source");
      source.onmessage = async () => {
        started += 1;
        await stuck;
      };
      // Referenced, or the garbage collector would free a stream that nobody can read any more.
      Object.assign(window, { streams, unstick, started: () => started });
    });
    await eventually(() => written["/source"] >= limit && written["/no-cache"] >= limit);
    await eventually(
      async () => (await page.evaluate(() => (window as unknown as { started(): number }).started())) > 200,
    );
    // Chromium reads a response ahead into memory, except one that must not be stored.
    expect(written["/no-store"]).toBeLessThan(limit / 2);
  });
});
