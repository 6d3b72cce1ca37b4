// Wrong: a class that makes a new EventSource after each error, with a delay that every message resets, and a close() that leaves the timer running
// Harm: the new object sends no Last-Event-ID, so events are lost or repeated in silence; a failing server gets requests at full speed; an object that was closed reconnects
// Instead: sse/event-source
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { eventually, type Handler, serve, sse } from "../support/server.ts";

declare const pattern: typeof import("../../src/sse/event-source.ts");

test("a rebuilt EventSource loses its cursor, and a closed one reconnects", async () => {
  const cursors: string[] = [];
  let down = false;
  const events: Handler = (request, response, nth) => {
    const { pathname, searchParams } = new URL(request.url!, "http://x");
    const cursor = request.headers["last-event-id"] ?? searchParams.get("lastEventId");
    cursors.push(`${pathname} ${cursor}`);
    if (nth === 2 || down) return void response.writeHead(503).end();
    // Without a cursor a live stream begins with what is new: the second event was published between the two.
    const from = cursor === null ? nth - 1 : Number(cursor);
    sse(response, `retry: 1\n\nid: ${from + 1}\ndata: ${from + 1}\n\n`).end();
  };
  const server = await serve({ "/wrong": events, "/right": events });
  const page = await openPage(server.origin);
  await load(page, "sse/event-source.ts");
  await page.evaluate(() => {
    const seen: Record<string, string[]> = { wrong: [], right: [] };
    class Reconnecting {
      source!: EventSource;
      delay = 20;
      readonly url: string;
      constructor(url: string) {
        this.url = url;
        this.connect();
      }
      connect(): void {
        this.source = new EventSource(this.url);
        this.source.onmessage = (event) => {
          this.delay = 20; // reset by each message
          seen["wrong"]!.push(event.data as string);
        };
        this.source.onerror = () => {
          this.source.close();
          setTimeout(() => this.connect(), this.delay);
          this.delay *= 2;
        };
      }
      close(): void {
        this.source.close();
      }
    }
    const wrong = new Reconnecting("/wrong");
    const onEvent = (event: MessageEvent<string>): void => void seen["right"]!.push(event.data);
    const right = pattern.subscribe("/right", {
      types: ["message"],
      lastTypes: ["done"],
      minDelay: 1,
      maxDelay: 5,
      onEvent,
    });
    Object.assign(window, { seen, wrong, right });
  });
  type Page = {
    seen: Record<string, string[]>;
    wrong: { close(): void; source: EventSource };
    right: { close(): void };
  };
  await eventually(async () => {
    const { wrong, right } = await page.evaluate(() => (window as unknown as Page).seen);
    return wrong!.length >= 2 && right!.length >= 2;
  });
  const seen = await page.evaluate(() => (window as unknown as Page).seen);
  expect(seen["wrong"]!.slice(0, 2)).toEqual(["1", "3"]); // "2" is lost, and nobody knows
  expect(seen["right"]!.slice(0, 2)).toEqual(["1", "2"]);
  expect(cursors.filter((entry) => entry.startsWith("/wrong")).every((entry) => entry === "/wrong null")).toBe(true);

  // The server is down, so a timer runs most of the time; close() does not stop it.
  down = true;
  await page.evaluate(async () => {
    const { wrong, right } = window as unknown as Page;
    while (wrong.source.readyState !== EventSource.CLOSED) await new Promise((resolve) => setTimeout(resolve, 0));
    wrong.close();
    right.close();
  });
  const before = { wrong: server.hits.get("/wrong")!, right: server.hits.get("/right")! };
  await eventually(() => server.hits.get("/wrong")! > before.wrong);
  expect(server.hits.get("/right")! - before.right).toBeLessThanOrEqual(1); // one that was on its way
});
