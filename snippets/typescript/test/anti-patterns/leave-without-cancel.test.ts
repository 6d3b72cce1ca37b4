// Wrong: `return` at `[DONE]` from a loop over `reader.read()`, without cancel() or an AbortController
// Harm: the connection stays open and takes one of the six that a browser opens per origin (HTTP/1.1); a Stop button has nothing to abort
// Instead: sse/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { eventually, gone, serve, sse } from "../support/server.ts";

declare const pattern: typeof import("../../src/sse/connect.ts");

test("a loop that returns leaves its connection open", async () => {
  const closed: string[] = [];
  const server = await serve({
    "/wrong": (_, response) => {
      sse(response, "data: [DONE]\n\n");
      void gone(response).then(() => closed.push("wrong"));
    },
    "/right": (_, response) => {
      sse(response, "data: [DONE]\n\n");
      void gone(response).then(() => closed.push("right"));
    },
  });
  const page = await openPage(server.origin);
  await load(page, "sse/connect.ts");
  await page.evaluate(async () => {
    const kept: unknown[] = [];
    const wrong = async (): Promise<void> => {
      const reader = (await fetch("/wrong", { cache: "no-store" })).body!.getReader();
      kept.push(reader);
      for (;;) {
        const { value } = await reader.read();
        if (new TextDecoder().decode(value).includes("[DONE]")) return;
      }
    };
    Object.assign(window, { kept });
    const { signal } = new AbortController();
    for (let at = 0; at < 8; at++) {
      for await (const { data } of pattern.connect(new URL("/right", location.href), { signal }))
        if (data === "[DONE]") break;
    }
    for (let at = 0; at < 5; at++) await wrong();
  });
  await eventually(() => closed.length === 8);
  expect(closed).toEqual(Array.from({ length: 8 }, () => "right"));
  expect(server.hits.get("/wrong")).toBe(5);
});
