// The React hooks in Chromium, under StrictMode: one connection, few renders, no loss.
import type { ServerResponse } from "node:http";
import type { Page } from "playwright-core";
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { describe, expect, test } from "vitest";
import { keyed, SharedStore } from "../src/streams/shared-store.ts";
import { load, openPage } from "./support/browser.ts";
import { eventually, gone, serve, sse } from "./support/server.ts";
import { Prerendered, type Shared } from "./support/shared-app.tsx";
import { serveSockets } from "./support/websocket.ts";

declare const pattern: typeof import("./support/shared-app.tsx");
declare const shared: Shared;

async function makeShared(page: Page, kind: "sse" | "websocket", url: string, lingerMs: number): Promise<void> {
  await load(page, "test/support/shared-app.tsx");
  await page.evaluate(
    ([kind, url, lingerMs]) => Object.assign(window, { shared: pattern.makeShared(kind, url, lingerMs) }),
    [kind, url, lingerMs] as const,
  );
}

const text = (page: Page, id: string): Promise<string | null> =>
  page.evaluate((id) => document.getElementById(id)?.textContent ?? null, id);

/** A stream that is written to from the test; it resumes. */
async function stream(): Promise<{ origin: string; opened: string[]; open: () => number; send: (n: number) => void }> {
  const responses: ServerResponse[] = [];
  const opened: string[] = [];
  const server = await serve({
    "/events": (request, response) => {
      opened.push(new URL(request.url!, "http://x").searchParams.get("lastEventId") ?? "");
      responses.push(sse(response));
    },
  });
  const live = (): ServerResponse[] => responses.filter((response) => !response.destroyed);
  return {
    origin: server.origin,
    opened,
    open: () => live().length,
    send: (n) => {
      for (const response of live()) response.write(`id: ${n}\ndata: ${n}\n\n`);
    },
  };
}

test("a keyed store is the same for the same key, and the unused ones are bounded", () => {
  const made: string[] = [];
  const store = keyed((key) => {
    made.push(key);
    return new SharedStore(key, () => () => undefined);
  }, 2);
  const leave = store("a").subscribe(() => undefined);
  for (const key of ["b", "b", "c", "d", "a", "d"]) expect(store(key).getSnapshot()).toBe(key);
  expect(made).toEqual(["a", "b", "c", "d"]);
  store("b"); // it was let go for d; a is in use
  expect(made).toEqual(["a", "b", "c", "d", "b"]);
  leave();
});

describe("useEventStream", () => {
  test("two components under StrictMode share one connection, which a change of route keeps", async () => {
    const server = await stream();
    const page = await openPage(server.origin);
    await makeShared(page, "sse", "/events", 600_000);
    await page.evaluate(() => shared.mount());
    await eventually(() => server.open() === 1);
    server.send(1);
    await eventually(async () => (await text(page, "count")) === "1" && (await text(page, "last")) === "1 open");
    await page.evaluate(() => {
      shared.unmount();
      shared.mount();
    });
    server.send(2);
    await eventually(async () => (await text(page, "count")) === "2");
    expect(server.opened).toEqual([""]);
  });

  test("the last component closes it, and the next one continues after the last event", async () => {
    const server = await stream();
    const page = await openPage(server.origin);
    await makeShared(page, "sse", "/events", 1);
    await page.evaluate(() => shared.mount());
    await eventually(() => server.open() === 1);
    server.send(1);
    await eventually(async () => (await text(page, "count")) === "1");
    await page.evaluate(() => shared.unmount());
    await eventually(() => server.open() === 0);
    await page.evaluate(() => shared.mount());
    await eventually(() => server.open() === 1);
    expect(server.opened.at(-1)).toBe("1");
    server.send(2);
    await eventually(async () => (await text(page, "count")) === "2"); // what was built before is kept
  });

  test("a page without frames, as a hidden one, renders once when it has one again", async () => {
    const server = await stream();
    const page = await openPage(server.origin);
    await makeShared(page, "sse", "/events", 600_000);
    await page.evaluate(() => shared.mount());
    await eventually(() => server.open() === 1);
    server.send(1);
    await eventually(async () => (await text(page, "last")) === "1 open");
    const before = await page.evaluate(() => {
      const frames: FrameRequestCallback[] = [];
      Object.assign(window, {
        frames2: frames,
        requestAnimationFrame: (run: FrameRequestCallback) => frames.push(run),
      });
      return { ...shared.renders };
    });
    for (let n = 2; n <= 50; n++) server.send(n);
    server.send(51);
    // Another reader of the stream is the clock: its state is in the page before ours is read.
    await eventually(() =>
      page.evaluate(() => (window as unknown as { frames2: FrameRequestCallback[] }).frames2.length === 1),
    );
    await page.evaluate(
      () =>
        new Promise<void>((resolve) => {
          const poll = (): void => {
            const frames = (window as unknown as { frames2: FrameRequestCallback[] }).frames2;
            for (const run of frames.splice(0)) run(0);
            if (document.getElementById("count")?.textContent === "51") resolve();
            else setTimeout(poll, 200);
          };
          setTimeout(poll, 200);
        }),
    );
    const after = await page.evaluate(() => ({ ...shared.renders }));
    expect(after.count - before.count).toBeLessThan(20); // StrictMode renders twice; 50 events would be 100
    expect(await text(page, "last")).toBe("51 open");
  });

  test("a stream that has ended stays ended, and shows how", async () => {
    let opened = 0;
    const server = await serve({
      "/events": (_, response) => {
        opened += 1;
        sse(response, "data: a\n\nevent: done\ndata: {}\n\n");
      },
      "/refused": (_, response) => void response.writeHead(401).end(),
    });
    const page = await openPage(server.origin);
    await makeShared(page, "sse", "/events", 1);
    await page.evaluate(() => shared.mount());
    await eventually(async () => (await text(page, "last")) === "a done 200");
    await page.evaluate(async () => {
      shared.unmount();
      await new Promise((resolve) => setTimeout(resolve, 50));
      shared.mount();
    });
    await eventually(async () => (await text(page, "last")) === "a done 200");
    expect(opened).toBe(1);
    await makeShared(page, "sse", "/refused", 1);
    await page.evaluate(() => {
      document.body.replaceChildren();
      shared.mount();
    });
    await eventually(async () => (await text(page, "last")) === "refused 401");
  });
});

describe("useEventStream elsewhere", () => {
  test("a server renders the initial state, and connects to nothing", () => {
    // Node has neither `document` nor, in this version, EventSource: a connection would throw.
    expect(renderToString(createElement(Prerendered))).toBe("<b>nothing yet connecting</b>");
  });

  test("a selector that makes a new object each time is an error of React, not a quiet loop", async () => {
    const server = await stream();
    const page = await openPage(server.origin);
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(error.message));
    await load(page, "test/support/shared-app.tsx");
    await page.evaluate(() => pattern.mountFresh("/events"));
    await eventually(() => errors.length > 0);
    expect(errors[0]).toContain("Maximum update depth exceeded");
  });
});

describe("useWebSocket", () => {
  test("two components under StrictMode share one socket; the last one closes it", async () => {
    const codes: number[] = [];
    const server = await serveSockets((socket) => {
      socket.on("message", (data) => socket.send(data.toString()));
      socket.on("close", (code) => codes.push(code));
    });
    const page = await openPage(server.origin);
    await makeShared(page, "websocket", server.ws, 100);
    expect(await page.evaluate(() => shared.send("early"))).toBe(false);
    await page.evaluate(() => shared.mount());
    await eventually(() => page.evaluate(() => shared.send("hello")));
    await eventually(async () => (await text(page, "count")) === "1" && (await text(page, "last")) === "hello open");
    expect(server.sockets).toHaveLength(1);
    await page.evaluate(() => shared.unmount());
    await eventually(() => codes.length === 1);
    await page.evaluate(() => shared.mount());
    await eventually(() => server.sockets.length === 2);
    await eventually(async () => (await text(page, "last")) === "hello open"); // and its state is kept
  });
});

describe("gone", () => {
  test("a page that is closed leaves no connection", async () => {
    const ended: boolean[] = [];
    const server = await serve({
      "/events": (_, response) => void gone(sse(response)).then(() => ended.push(true)),
    });
    const page = await openPage(server.origin);
    await makeShared(page, "sse", "/events", 600_000);
    await page.evaluate(() => shared.mount());
    await eventually(() => server.hits.get("/events") === 1);
    await page.close();
    await eventually(() => ended.length === 1);
  });
});
