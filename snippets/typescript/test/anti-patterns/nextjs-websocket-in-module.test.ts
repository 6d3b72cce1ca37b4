// Wrong: `new WebSocketServer({ port })` in a module of Next.js
// Harm: the application's second process cannot listen (EADDRINUSE) and keeps serving as if it could: its clients talk to the first
// Instead: streams/nextjs
// Probe: cannot see: the second process of an application
import { readFileSync } from "node:fs";
import { expect, inject, test } from "vitest";
import WebSocket from "ws";
import { eventually } from "../support/server.ts";

test("the second process of the application has no WebSocket server", async () => {
  const servers = [inject("nextjs"), inject("second")];
  for (const { origin } of servers) expect((await fetch(`${origin}/wrong/websocket`)).status).toBe(200);
  await eventually(() => servers.some(({ log }) => readFileSync(log, "utf8").includes("EADDRINUSE")));
  // Every client gets the same process, whichever it came from.
  const pids = await Promise.all(
    [1, 2].map(
      () =>
        new Promise<string>((resolve, reject) => {
          const socket = new WebSocket(`ws://127.0.0.1:${inject("websocketPort")}`);
          socket.on("error", reject).on("message", (data) => {
            resolve(String(data));
            socket.terminate();
          });
        }),
    ),
  );
  expect(pids[0]).toBe(pids[1]);
});
