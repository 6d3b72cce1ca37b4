// Wrong: `new EventSource("/api/generate")` for an answer that ends, with a server that closes when it is done
// Harm: the browser treats the end as a lost connection and repeats the request forever: each time the work is done and paid for
// Instead: sse/event-source
// Probe: fails sse-terminal-event
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { eventually, serve, sse } from "../support/server.ts";

declare const pattern: typeof import("../../src/sse/event-source.ts");

test("a finished answer is generated again and again", async () => {
  let generations = 0;
  const generate = (_: unknown, response: Parameters<typeof sse>[0]): void => {
    generations += 1;
    sse(response, 'retry: 20\ndata: {"text":"all of it"}\n\n').end();
  };
  const server = await serve({
    "/wrong": generate,
    "/right": (_, response) => void sse(response, "retry: 20\ndata: 1\n\nevent: done\ndata: {}\n\n").end(),
  });
  const page = await openPage(server.origin);
  await load(page, "sse/event-source.ts");
  await page.evaluate(() => {
    new EventSource("/wrong").onmessage = () => undefined;
    pattern.subscribe("/right", { types: ["message"], lastTypes: ["done"], onEvent: () => undefined });
  });
  await eventually(() => generations >= 10);
  expect(server.hits.get("/right")).toBe(1);
});
