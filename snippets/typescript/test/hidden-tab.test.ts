// A hidden tab of Chromium, whose timers run once a minute: the clients keep their connections and lose nothing.
//
// Chromium throttles five minutes after a page was hidden, or sooner; a flag makes it ten seconds. By hand, without the flag:
// `HIDDEN_MINUTES=11 npx vitest run --project patterns test/hidden-tab.test.ts`.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { WebSocket as Socket } from "ws";
import { browserArguments, chromiumPath } from "../../../tools/testkit.mjs";
import { bundle } from "./support/browser.ts";

import { eventually, serve, sse } from "./support/server.ts";
import { serveSockets } from "./support/websocket.ts";

declare const pattern: typeof import("../src/websocket/client.ts") &
  typeof import("../src/sse/event-source.ts") &
  typeof import("../src/sse/connect.ts");

const MINUTES = Number(process.env["HIDDEN_MINUTES"] ?? 0);

interface Page {
  seen: Record<"socket" | "source" | "fetch", number[]>;
  ticks: number[];
}

/** Runs in the page: three clients, and a chain of timers that shows when they are throttled. */
function follow(origin: string, socket: string): void {
  const page: Page = { seen: { socket: [], source: [], fetch: [] }, ticks: [] };
  Object.assign(window, { page });
  new pattern.WebSocketClient({
    url: () => socket,
    onOpen: (client) => void client.send(String(page.seen.socket.length)),
    onMessage: (data) => void (data !== "alive" && page.seen.socket.push(Number(data))),
    heartbeat: () => "beat",
    heartbeatEvery: 1_000, // in a visible page; hidden, a beat is late by up to a minute
  });
  pattern.subscribe(`${origin}/events?by=source`, {
    types: ["tick"],
    lastTypes: ["done"],
    onEvent: (event) => void page.seen.source.push(Number(event.data)),
  });
  void (async () => {
    const { signal } = new AbortController();
    for await (const event of pattern.connect(`${origin}/events?by=fetch`, { signal }))
      if (event.type === "tick") page.seen.fetch.push(Number(event.data));
  })();
  const tick = (): void => {
    page.ticks.push(performance.now());
    setTimeout(tick, 1_000);
  };
  tick();
}

/** A page of a Chromium without Playwright, which keeps all of its pages visible. */
async function hiddenTab(
  url: string,
): Promise<{ evaluate: (code: string) => Promise<unknown>; hide: () => Promise<void> }> {
  const profile = mkdtempSync(join(tmpdir(), "hidden-tab-"));
  const soon = MINUTES === 0 ? ["--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/10"] : [];
  const options = [
    ...browserArguments,
    ...soon,
    "--remote-debugging-port=0",
    `--user-data-dir=${profile}`,
    "about:blank",
  ];
  const browser = spawn(chromiumPath(), options, { stdio: ["ignore", "ignore", "pipe"] });
  onTestFinished(async () => {
    const gone = new Promise((resolve) => browser.once("close", resolve));
    browser.kill("SIGKILL");
    await gone;
    rmSync(profile, { recursive: true, force: true, maxRetries: 20 });
  });
  let log = "";
  browser.stderr.on("data", (data: Buffer) => void (log += data.toString()));
  const endpoint = /DevTools listening on (ws:\S+)/;
  await eventually(() => endpoint.test(log));
  const devtools = new Socket(endpoint.exec(log)![1]!);
  await new Promise((resolve) => devtools.once("open", resolve));
  type Answer = { id?: number; error?: unknown; result?: Record<string, unknown> };
  const waiting = new Map<number, (answer: Answer) => void>();
  devtools.on("message", (data) => {
    const answer = JSON.parse(data.toString()) as Answer;
    if (answer.id !== undefined) waiting.get(answer.id)?.(answer);
  });
  let id = 0;
  const send = (method: string, params: object, sessionId?: string): Promise<Record<string, unknown>> =>
    new Promise((resolve, reject) => {
      waiting.set(++id, ({ error, result }) =>
        result === undefined ? reject(new Error(JSON.stringify(error))) : resolve(result),
      );
      devtools.send(JSON.stringify({ id, method, params, sessionId }));
    });
  const { targetInfos } = await send("Target.getTargets", {});
  const { targetId } = (targetInfos as { type: string; targetId: string }[]).find(({ type }) => type === "page")!;
  const sessionId = (await send("Target.attachToTarget", { targetId, flatten: true }))["sessionId"] as string;
  await send("Page.navigate", { url }, sessionId);
  const evaluate = async (expression: string): Promise<unknown> => {
    const { result, exceptionDetails } = await send("Runtime.evaluate", { expression, returnByValue: true }, sessionId);
    if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
    return (result as { value: unknown }).value;
  };
  await eventually(async () => (await evaluate("location.href + document.readyState")) === `${url}complete`);
  const hide = async (): Promise<void> => {
    const other = await send("Target.createTarget", { url: "about:blank" });
    await send("Target.activateTarget", { targetId: other["targetId"] });
    await eventually(async () => (await evaluate("document.visibilityState")) === "hidden");
  };
  return { evaluate, hide };
}

test("a hidden tab, whose timers run once a minute, keeps each connection and loses nothing", {
  timeout: (MINUTES + 10) * 60_000,
}, async () => {
  let published = 0;
  const streams = new Set<ServerResponse>();
  const opened: string[] = [];
  const event = (n: number): string => `id: ${n}\nevent: tick\ndata: ${n}\n\n`;
  const server = await serve({
    "/events": (request, response) => {
      opened.push(new URL(request.url!, "http://x").searchParams.get("by")!);
      sse(response, "retry: 1000\n\n");
      for (let n = 1; n <= published; n++) response.write(event(n));
      streams.add(response);
    },
  });
  const beats: number[] = [];
  const sockets = await serveSockets((socket) => {
    opened.push("socket");
    socket.on("message", (data) => {
      if (data.toString() !== "beat") return;
      beats.push(performance.now());
      socket.send("alive");
    });
  });
  const pings = setInterval(() => streams.forEach((stream) => stream.write("event: ping\ndata: {}\n\n")), 15_000);
  onTestFinished(() => clearInterval(pings));
  const publish = (): void => {
    published += 1;
    streams.forEach((stream) => stream.write(event(published)));
    for (const socket of sockets.sockets) socket.send(String(published));
  };

  const { evaluate, hide } = await hiddenTab(`${server.origin}/`);
  for (const file of ["websocket/client.ts", "sse/event-source.ts", "sse/connect.ts"])
    await evaluate(`${await bundle(file)};0`);
  await evaluate(`(${follow.toString()})(${JSON.stringify(server.origin)}, ${JSON.stringify(sockets.ws)})`);
  const page = async (): Promise<Page> => JSON.parse((await evaluate("JSON.stringify(page)")) as string) as Page;
  const all = (): number[] => Array.from({ length: published }, (_, at) => at + 1);
  const complete = (): Promise<void> =>
    eventually(async () => Object.values((await page()).seen).every((seen) => seen.length >= published));
  const longest = (times: number[]): number => Math.max(0, ...times.slice(1).map((time, at) => time - times[at]!));
  await eventually(() => opened.length === 3 && beats.length > 0);
  publish();
  await complete();

  await hide();
  const until = performance.now() + MINUTES * 60_000;
  // Until the timers of the page, and with them the heartbeats of the socket, have been held back.
  await eventually(async () => longest((await page()).ticks) > 20_000 && longest(beats) > 20_000);
  do {
    publish();
    await complete();
    if (performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 5_000));
  } while (performance.now() < until);

  const { seen } = await page();
  expect(seen).toEqual({ socket: all(), source: all(), fetch: all() });
  expect(opened.sort()).toEqual(["fetch", "socket", "source"]);
});
