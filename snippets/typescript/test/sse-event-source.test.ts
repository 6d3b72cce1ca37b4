import type { BrowserContext, Page } from "playwright-core";
import { describe, expect, inject, test } from "vitest";
import type { SubscribeOptions } from "../src/sse/event-source.ts";
import { load, newContext, openPage } from "./support/browser.ts";
import { eventually, gone, serve, sse, type TestServer } from "./support/server.ts";

type Patterns = typeof import("../src/sse/event-source.ts") & typeof import("../src/sse/tabs.ts");
declare const pattern: Patterns;

interface Log {
  events: string[];
  ended: string[];
}
declare const log: Log;

/** Subscribes in the page; what arrives is in `log`. */
async function subscribeIn(page: Page, url: string, options: Partial<SubscribeOptions> = {}): Promise<void> {
  await load(page, "sse/event-source.ts");
  await page.evaluate(
    ([url, options]) => {
      const log: Log = { events: [], ended: [] };
      const subscription = pattern.subscribe(url, {
        types: ["note", "message", "reset"],
        lastTypes: ["done"],
        minDelay: 1,
        maxDelay: 10,
        ...options,
        onEvent: (event) => log.events.push(`${event.type} ${event.data}`),
        onEnd: (reason, status) => log.ended.push(`${reason} ${status}`),
      });
      Object.assign(window, { log, subscription });
    },
    [url, options] as const,
  );
}

const logOf = (page: Page): Promise<Log> => page.evaluate(() => log);
const cursors = (server: TestServer): string[] =>
  server.requests
    .filter(({ url }) => url?.startsWith("/events"))
    .map(
      ({ url, headers }) =>
        `${headers["last-event-id"] ?? "-"} ${new URL(url!, "http://x").searchParams.get("lastEventId") ?? "-"}`,
    );

describe("subscribe", () => {
  test("ends at the terminal event", async () => {
    const server = await serve({
      "/events": (_, response) => void sse(response, "retry: 1\nid: 1\ndata: a\n\nevent: done\ndata: {}\n\n").end(),
      "/clock": (_, response) => void sse(response, "retry: 1\n\n").end(),
    });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events");
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect(await logOf(page)).toEqual({ events: ["message a", "done {}"], ended: ["done 200"] });
    await page.evaluate(() => void new EventSource("/clock"));
    await eventually(() => (server.hits.get("/clock") ?? 0) >= 10);
    expect(server.hits.get("/events")).toBe(1);
  });

  test("comes back after a 429 and a 503 with its cursor in the query", async () => {
    const server = await serve({
      "/events": (_, response, nth) => {
        if (nth === 1) sse(response, "retry: 1\nid: 7\ndata: a\n\n").end();
        else if (nth < 5) response.writeHead(nth === 3 ? 429 : 503).end();
        else sse(response, "event: done\ndata: {}\n\n");
      },
    });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events");
    await eventually(async () => (await logOf(page)).ended.length === 1);
    const seen = cursors(server);
    expect(seen[0]).toBe("- -");
    // The same object sends the header, a new one and the request for the status the query.
    expect(seen[1]).toBe("7 -");
    expect(new Set(seen.slice(2))).toEqual(new Set(["- 7"]));
  });

  test("keeps its cursor when a new connection brings only a ping", async () => {
    const server = await serve({
      "/events": (_, response, nth) => {
        if (nth === 1) sse(response, "retry: 1\nid: 7\ndata: a\n\n").end();
        else if (nth === 4) sse(response, "retry: 1\nevent: ping\ndata: {}\n\n").end();
        else if (nth < 8) response.writeHead(503).end();
        else sse(response, "event: done\ndata: {}\n\n");
      },
    });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events");
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect(new Set(cursors(server).slice(2))).toEqual(new Set(["- 7"]));
  });

  test("tells a refusal from a failure, and ends at the first", async () => {
    const server = await serve({ "/events": (_, response) => void response.writeHead(401).end() });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events");
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect((await logOf(page)).ended).toEqual(["refused 401"]);
    expect(server.hits.get("/events")).toBe(2);
  });

  test("a 204 ends it", async () => {
    const server = await serve({ "/events": (_, response) => void response.writeHead(204).end() });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events");
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect((await logOf(page)).ended).toEqual(["done 204"]);
  });

  test("silence makes a new connection with the cursor, a ping event is not silence", async () => {
    const server = await serve({
      "/events": (_, response, nth) => {
        if (nth > 1) return void sse(response, "event: done\ndata: {}\n\n");
        sse(response, "id: 3\ndata: a\n\n");
        // Comments, which the page cannot see.
        const timer = setInterval(() => response.write(":\n\n"), 20);
        void gone(response).then(() => clearInterval(timer));
      },
    });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events", { idleTimeout: 3_000 });
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect(cursors(server)).toEqual(["- -", "- 3"]);

    // sse/resume sends a ping event each 100 ms: five seconds without an event of ours, no new connection.
    const scene = `${inject("rust")}/scene/${crypto.randomUUID()}`;
    const other = await openPage(inject("rust"));
    await subscribeIn(other, `${scene}/events`, { idleTimeout: 4_000 });
    await other.evaluate(() => {
      const native = EventSource;
      Object.assign(window, { made: 0 });
      window.EventSource = class extends native {
        constructor(...args: ConstructorParameters<typeof native>) {
          super(...args);
          (window as unknown as { made: number }).made += 1;
        }
      };
    });
    // Another reader of the same stream is the clock.
    await other.evaluate(
      (url) =>
        new Promise<void>((resolve) => {
          const clock = new EventSource(url);
          let pings = 0;
          clock.addEventListener("ping", () => ++pings === 50 && resolve(clock.close()));
        }),
      `${scene}/events`,
    );
    expect(await other.evaluate(() => (window as unknown as { made: number }).made)).toBe(1);
    await fetch(`${scene}/publish/done`, { method: "POST", body: "x" });
    await eventually(async () => (await logOf(other)).ended.length === 1);
  });

  test("a new connection waits for minDelay whatever the dice say, and endless patience is not 1 ms", async () => {
    const times: number[] = [];
    const server = await serve({
      "/events": (_, response, nth) => {
        times.push(performance.now());
        // The refused one, the request that asks for the status, the new one.
        if (nth <= 2) response.writeHead(503).end();
        else setTimeout(() => sse(response, "event: done\ndata: {}\n\n"), 50); // the watchdog would give it up
      },
    });
    const page = await openPage(server.origin);
    await page.evaluate(() => void (Math.random = () => 0));
    await subscribeIn(page, "/events", { minDelay: 200, maxDelay: 200, idleTimeout: Infinity });
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect(times).toHaveLength(3);
    expect(times[2]! - times[1]!).toBeGreaterThan(190);
  });

  test("close stops everything, also during the delay", async () => {
    const server = await serve({
      "/events": (_, response) => void response.writeHead(503).end(),
      "/clock": (_, response) => void sse(response, "retry: 1\n\n").end(),
    });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events", { minDelay: 20, maxDelay: 20 });
    await eventually(() => (server.hits.get("/events") ?? 0) >= 2);
    await page.evaluate(() => (window as unknown as { subscription: { close(): void } }).subscription.close());
    const before = server.hits.get("/events")!;
    await page.evaluate(() => void new EventSource("/clock"));
    await eventually(() => (server.hits.get("/clock") ?? 0) >= 30);
    // At most the request that was on its way when close() was called.
    expect(server.hits.get("/events")! - before).toBeLessThanOrEqual(1);
  });

  test("refuses the names that collide with EventSource's own events", async () => {
    const server = await serve({});
    const page = await openPage(server.origin);
    await load(page, "sse/event-source.ts");
    const message = await page.evaluate(() => {
      try {
        pattern.subscribe("/events", { types: ["error"], lastTypes: ["done"], onEvent: () => undefined });
        return "";
      } catch (error) {
        return String(error);
      }
    });
    expect(message).toContain("EventSource's own");
  });

  test("leaves for the back/forward cache and comes back from it with the cursor", async () => {
    const closed: number[] = [];
    const server = await serve({
      "/events": (_, response, nth) => {
        sse(response, `id: ${nth}\ndata: ${nth}\n\n`);
        void gone(response).then(() => closed.push(nth));
      },
      "/other": (_, response) =>
        void response.setHeader("content-type", "text/html").end('<link rel="icon" href="data:,">other'),
    });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events");
    await page.evaluate(() =>
      addEventListener("pageshow", (event) => Object.assign(window, { persisted: event.persisted })),
    );
    await eventually(async () => (await logOf(page)).events.length === 1);
    await page.goto(`${server.origin}/other`);
    await eventually(() => closed.includes(1));
    await page.goBack({ waitUntil: "commit" });
    await eventually(() => page.evaluate(() => "log" in window && log.events.length === 2).catch(() => false));
    expect(await page.evaluate(() => (window as unknown as { persisted: boolean }).persisted)).toBe(true);
    expect(cursors(server)).toEqual(["- -", "- 1"]);
  });

  test("reads sse/resume over a shutdown of the streams", async () => {
    const scene = `${inject("rust")}/scene/${crypto.randomUUID()}`;
    const post = async (path: string, body = ""): Promise<void> =>
      void (await fetch(`${scene}/${path}`, { method: "POST", body }));
    const page = await openPage(inject("rust"));
    await subscribeIn(page, `${scene}/events`);
    await post("publish/note", "one");
    await eventually(async () => (await logOf(page)).events.length === 1);
    await post("publish/note", "two");
    await post("publish/done", "three");
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect(await logOf(page)).toEqual({ events: ['note "one"', 'note "two"', 'done "three"'], ended: ["done 200"] });
  });

  test("reads sse/jobs to its terminal event, and gets 204 with that cursor", async () => {
    const scene = `${inject("rust")}/scene/${crypto.randomUUID()}`;
    const page = await openPage(inject("rust"));
    await subscribeIn(page, `${scene}/jobs/1/events`, { types: ["progress"], lastTypes: ["done", "failed"] });
    await eventually(async () => (await logOf(page)).events.length === 1);
    await fetch(`${scene}/progress/100`, { method: "POST" });
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect((await logOf(page)).events.at(-1)).toBe('done {"percent":100}');
    const whole = await (await fetch(`${scene}/jobs/1/events`)).text();
    const lastEventId = /id: (\S+)\nevent: done/.exec(whole)?.[1] ?? "";
    await subscribeIn(page, `${scene}/jobs/1/events`, { types: ["progress"], lastTypes: ["done"], lastEventId });
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect((await logOf(page)).ended).toEqual(["done 204"]);
  });
});

describe("subscribe with what goes wrong", () => {
  test("a url function is called before each request: a ticket is valid once", async () => {
    const valid = new Set<string>();
    let issued = 0;
    const statuses: number[] = [];
    const server = await serve({
      "/tickets": (_, response) => {
        issued += 1;
        valid.add(String(issued));
        response.end(String(issued));
      },
      "/events": (request, response, nth) => {
        const ok = valid.delete(new URL(request.url!, "http://x").searchParams.get("ticket") ?? "");
        statuses.push(ok ? 200 : 401);
        if (!ok) return void response.writeHead(401).end();
        if (nth === 2) return void response.writeHead(503).end(); // the probe needs a ticket of its own
        sse(response, `retry: 1\nid: ${nth}\ndata: ${nth}\n\n`);
        if (nth === 1) setTimeout(() => response.destroy(), 20);
        if (nth === 4) response.write("event: done\ndata: {}\n\n");
      },
    });
    const page = await openPage(server.origin);
    await load(page, "sse/event-source.ts");
    await page.evaluate(() => {
      const log: Log = { events: [], ended: [] };
      pattern.subscribe(async () => `/events?ticket=${await (await fetch("/tickets")).text()}`, {
        types: ["message"],
        lastTypes: ["done"],
        minDelay: 1,
        maxDelay: 10,
        onEvent: (event) => log.events.push(event.data),
        onEnd: (reason, status) => log.ended.push(`${reason} ${status}`),
      });
      Object.assign(window, { log });
    });
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect(await logOf(page)).toEqual({ events: ["1", "4", "{}"], ended: ["done 200"] });
    expect(statuses).toEqual([200, 200, 200, 200]);
  });

  test("a probe that hangs is given up", async () => {
    const server = await serve({
      "/events": (_, response, nth) => {
        if (nth === 1) response.writeHead(503).end();
        else if (nth > 2) sse(response, "event: done\ndata: {}\n\n"); // the second, the probe, hangs
      },
    });
    const page = await openPage(server.origin);
    await subscribeIn(page, "/events", { idleTimeout: 100 });
    await eventually(async () => (await logOf(page)).ended.length === 1);
    expect((await logOf(page)).ended).toEqual(["done 200"]);
  });

  test("a 200 that is no event stream is reported, and not asked for again", async () => {
    for (const type of ["text/html", "text/event-stream; charset=latin1"]) {
      const server = await serve({
        "/events": (_, response) => void response.setHeader("content-type", type).end("<title>Log in</title>"),
      });
      const page = await openPage(server.origin);
      await subscribeIn(page, "/events");
      await eventually(async () => (await logOf(page)).ended.length === 1);
      expect((await logOf(page)).ended).toEqual(["refused 200"]);
    }
  });

  test("an exception of a handler is reported to the page, and the stream continues to its end", async () => {
    const server = await serve({
      "/events": (_, response) => void sse(response, "data: a\n\ndata: b\n\nevent: done\ndata: {}\n\n"),
    });
    const page = await openPage(server.origin);
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(error.message));
    await load(page, "sse/event-source.ts");
    await page.evaluate(() => {
      const log: Log = { events: [], ended: [] };
      Object.assign(window, { log });
      pattern.subscribe("/events", {
        types: ["message"],
        lastTypes: ["done"],
        onEvent: (event) => {
          log.events.push(event.data);
          throw new Error(`cannot handle ${event.data}`);
        },
        onEnd: (reason, status) => log.ended.push(`${reason} ${status}`),
      });
    });
    await eventually(async () => (await logOf(page)).ended.length === 1 && errors.length === 3);
    expect((await logOf(page)).events).toEqual(["a", "b", "{}"]);
    expect(errors).toEqual(["cannot handle a", "cannot handle b", "cannot handle {}"]);
  });
});

describe("shareAcrossTabs", () => {
  type Tab = { seen: string[]; ended: string[]; opened: number };
  const tabOf = (page: Page): Promise<Tab> => page.evaluate(() => (window as unknown as { tab: Tab }).tab);

  /** A tab whose stream is `window.publish` and `window.end`. */
  async function openTab(origin: string, context: BrowserContext, locks = true): Promise<Page> {
    const page = await openPage(origin, context);
    await load(page, "sse/tabs.ts");
    await page.evaluate((locks) => {
      // As in a page of http://192.168.0.7.
      if (!locks) Object.defineProperty(navigator, "locks", { value: undefined });
      const tab: Tab = { seen: [], ended: [], opened: 0 };
      const open = (_: string, publish: (event: object) => void, end: (reason: string) => void): (() => void) => {
        tab.opened += 1;
        Object.assign(window, { publish, end });
        return () => undefined;
      };
      pattern.shareAcrossTabs(
        "late",
        open as Parameters<Patterns["shareAcrossTabs"]>[1],
        (event) => tab.seen.push(event.data),
        {
          onEnd: (reason) => tab.ended.push(reason),
        },
      );
      Object.assign(window, { tab });
    }, locks);
    return page;
  }

  test("a tab that opens later gets the state, and every tab the end", async () => {
    const server = await serve({});
    const context = await newContext();
    const leader = await openTab(server.origin, context);
    await eventually(async () => (await tabOf(leader)).opened === 1);
    const publish = (data: string): Promise<void> =>
      leader.evaluate(
        (data) =>
          (window as unknown as { publish: (event: object) => void }).publish({ type: "s", data, lastEventId: data }),
        data,
      );
    await publish("1");
    await publish("2");
    const late = await openTab(server.origin, context);
    await eventually(async () => (await tabOf(late)).seen.length === 1);
    await publish("3");
    await eventually(async () => (await tabOf(late)).seen.length === 2);
    expect((await tabOf(late)).seen).toEqual(["2", "3"]);
    await leader.evaluate(() => (window as unknown as { end: (reason: string) => void }).end("done"));
    const last = await openTab(server.origin, context);
    for (const tab of [leader, late, last]) await eventually(async () => (await tabOf(tab)).ended.length === 1);
    await leader.close(); // the next one leads, and opens nothing
    await eventually(() =>
      late.evaluate(async () => {
        const { held = [] } = await navigator.locks.query();
        return held.length === 1;
      }),
    );
    expect([(await tabOf(late)).opened, (await tabOf(last)).opened]).toEqual([0, 0]);
    expect((await tabOf(last)).seen).toEqual(["3"]);
  });

  test("without Web Locks each tab connects on its own", async () => {
    const server = await serve({});
    const context = await newContext();
    const tabs = [await openTab(server.origin, context, false), await openTab(server.origin, context, false)];
    for (const tab of tabs) expect((await tabOf(tab)).opened).toBe(1);
    await tabs[0]!.evaluate(() =>
      (window as unknown as { publish: (event: object) => void }).publish({ type: "s", data: "1", lastEventId: "1" }),
    );
    expect((await tabOf(tabs[0]!)).seen).toEqual(["1"]);
    expect((await tabOf(tabs[1]!)).seen).toEqual([]);
  });

  test("many tabs hold one connection, and the next leader goes on from its own cursor", async () => {
    let open = 0;
    let next = 1;
    const responses: import("node:http").ServerResponse[] = [];
    const server = await serve({
      "/events": (request, response) => {
        open += 1;
        responses.push(response);
        sse(response, `: ${request.url}\n\n`);
        void gone(response).then(() => (open -= 1));
      },
    });
    const publish = (): void => {
      for (const response of responses) if (!response.destroyed) response.write(`id: ${next}\ndata: ${next}\n\n`);
      next += 1;
    };
    const context = await newContext();
    const tabs: Page[] = [];
    for (let at = 0; at < 3; at++) {
      const page = await openPage(server.origin, context);
      await load(page, "sse/tabs.ts");
      await page.evaluate(() => {
        const seen: string[] = [];
        const open = (
          lastEventId: string,
          give: (event: { type: string; data: string; lastEventId: string }) => void,
        ): (() => void) => {
          const source = new EventSource(`/events?lastEventId=${lastEventId}`);
          source.onmessage = give;
          return () => source.close();
        };
        pattern.shareAcrossTabs("test", open, (event) => seen.push(event.data));
        Object.assign(window, { seen });
      });
      tabs.push(page);
    }
    const seen = (page: Page): Promise<string[]> => page.evaluate(() => (window as unknown as { seen: string[] }).seen);
    await eventually(() => open === 1);
    publish();
    publish();
    for (const tab of tabs) await eventually(async () => (await seen(tab)).length === 2);
    await tabs[0]!.close();
    await eventually(() => responses.length === 2 && open === 1);
    expect(server.requests.at(-1)!.url).toBe("/events?lastEventId=2");
    publish();
    for (const tab of tabs.slice(1)) await eventually(async () => (await seen(tab)).length === 3);
    expect(await seen(tabs[2]!)).toEqual(["1", "2", "3"]);
    expect(server.hits.get("/events")).toBe(2);
  });
});
