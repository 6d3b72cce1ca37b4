// Wrong: an empty `onerror`, because "EventSource automatically reconnects"
// Harm: after one 503 during a deploy, or a 429, the page gets no events until it is reloaded
// Instead: sse/event-source
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { eventually, serve, sse } from "../support/server.ts";

declare const pattern: typeof import("../../src/sse/event-source.ts");

test("a 503 on a reconnect ends an EventSource, and not the pattern", async () => {
  let deploying = true;
  const flap = (_: unknown, response: Parameters<typeof sse>[0], nth: number): void => {
    if (nth === 1) sse(response, "retry: 10\ndata: before\n\n").end();
    else if (deploying) response.writeHead(503).end();
    else sse(response, "data: after\n\n");
  };
  const server = await serve({ "/wrong": flap, "/right": flap });
  const page = await openPage(server.origin);
  await load(page, "sse/event-source.ts");
  await page.evaluate(() => {
    const seen: Record<string, string[]> = { wrong: [], right: [] };
    const source = new EventSource("/wrong");
    source.onmessage = (event) => seen["wrong"]!.push(event.data as string);
    source.onerror = () => undefined;
    const onEvent = (event: MessageEvent<string>): void => void seen["right"]!.push(event.data);
    pattern.subscribe("/right", { types: ["message"], lastTypes: ["done"], minDelay: 10, maxDelay: 50, onEvent });
    Object.assign(window, { seen });
  });
  await eventually(() => server.hits.get("/wrong") === 2 && (server.hits.get("/right") ?? 0) >= 4);
  deploying = false;
  const seen = (): Promise<Record<string, string[]>> =>
    page.evaluate(() => (window as unknown as { seen: Record<string, string[]> }).seen);
  await eventually(async () => (await seen())["right"]!.length === 2);
  expect(await seen()).toEqual({ wrong: ["before"], right: ["before", "after"] });
  expect(server.hits.get("/wrong")).toBe(2);
});
