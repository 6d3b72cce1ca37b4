// Wrong: `useEffect(() => { const source = new EventSource(url); … }, [url])` in each component that shows a part of a stream
// Harm: each component holds a connection; over HTTP/1.1 the seventh gets nothing, and no other request to the origin is sent
// Instead: streams/react
// Probe: cannot see: a page
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { eventually, serve, sse } from "../support/server.ts";
import type { Shared } from "../support/shared-app.tsx";

declare const pattern: typeof import("../support/shared-app.tsx");

test("seven components of their own block the page, seven that share do not", async () => {
  let open = 0;
  const server = await serve({
    "/events": (_, response) => {
      open += 1;
      response.on("close", () => (open -= 1));
      sse(response, "data: now\n\n");
    },
    "/save": (_, response) => void response.end("saved"),
  });
  const save = (): Promise<string> =>
    fetch("/save", { signal: AbortSignal.timeout(1_000) }).then(
      (response) => response.text(),
      (error: Error) => error.name,
    );
  const own = await openPage(server.origin);
  await load(own, "test/support/shared-app.tsx");
  await own.evaluate(() => pattern.mountOwn("/events", 7));
  await eventually(() => open === 6);
  await eventually(() => own.evaluate(() => document.querySelectorAll(".part:not(:empty)").length === 6));
  expect(await own.evaluate(save)).toBe("TimeoutError");
  await own.close();

  const page = await openPage(server.origin);
  await load(page, "test/support/shared-app.tsx");
  await eventually(() => open === 0);
  await page.evaluate(() => {
    const shared: Shared = pattern.makeShared("sse", "/events", 1_000);
    for (let at = 0; at < 7; at++) shared.mount();
  });
  await eventually(() => page.evaluate(() => document.querySelectorAll("#last:not(:empty)").length === 7));
  expect(open).toBe(1);
  expect(await page.evaluate(save)).toBe("saved");
});
