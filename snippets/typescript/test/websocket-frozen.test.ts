// What a page costs that does not run (a frozen tab, a laptop that sleeps, a debugger), and how it comes back.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";
import { expect, onTestFinished, test } from "vitest";
import { browserArguments, chromiumPath } from "../../../tools/testkit.mjs";
import { bundle } from "./support/browser.ts";
import { eventually } from "./support/server.ts";
import { serveSockets } from "./support/websocket.ts";

declare const pattern: typeof import("../src/websocket/client.ts");

test("a page that does not run still answers pings, is not sent everything, and comes back without a gap", async () => {
  const events: string[] = [];
  let beats = 0;
  let pongs = 0;
  const server = await serveSockets((socket) => {
    socket.on("pong", () => pongs++);
    socket.on("message", (data) => {
      const message = data.toString();
      if (message === "beat") {
        beats += 1;
        socket.send("alive");
        return;
      }
      for (const event of events.slice(Number(message))) socket.send(event); // resume after so many
    });
  });
  const publish = (): void => {
    events.push(`event ${events.length}`);
    for (const socket of server.sockets) if (socket.readyState === socket.OPEN) socket.send(events.at(-1)!);
  };
  // A browser of its own: all of its pages are stopped.
  const browser = await chromium.launch({ executablePath: chromiumPath(), args: browserArguments, timeout: 240_000 });
  onTestFinished(() => browser.close());
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  await page.goto(server.origin);
  await page.addScriptTag({ content: await bundle("websocket/client.ts") });
  await page.evaluate((url) => {
    const seen: string[] = [];
    Object.assign(window, { seen });
    new pattern.WebSocketClient({
      url: () => url,
      onOpen: (client) => void client.send(String(seen.length)),
      onMessage: (data) => void (data === `event ${seen.length}` && seen.push(data)),
      heartbeat: () => "beat",
      heartbeatEvery: 200,
      minDelay: 1,
      maxDelay: 5,
    });
  }, server.ws);
  const seen = (): Promise<string[]> => page.evaluate(() => (window as unknown as { seen: string[] }).seen);
  const { processInfo } = await (await browser.newBrowserCDPSession()).send("SystemInfo.getProcessInfo");
  const pages = processInfo.filter(({ type }) => type === "renderer").map(({ id }) => id);
  const stop = async (): Promise<void> => {
    for (const id of pages) process.kill(id, "SIGSTOP");
    await eventually(() => pages.every((id) => readFileSync(`/proc/${id}/stat`, "utf8").includes(") T ")));
    await ping(); // what the page had sent before has come now
  };
  const resume = (): void => pages.forEach((id) => process.kill(id, "SIGCONT"));
  onTestFinished(resume);
  const ping = async (): Promise<void> => {
    const before = pongs;
    server.sockets.at(-1)!.ping();
    await eventually(() => pongs > before);
  };

  publish();
  await eventually(async () => beats > 2 && (await seen()).length === 1);

  // The browser's network process answers for the page: a server's pings do not find out that it stands still.
  await stop();
  const before = beats;
  for (let at = 0; at < 20; at++) {
    publish();
    await ping();
  }
  expect(beats).toBe(before);
  resume();
  await eventually(async () => (await seen()).length === 21);

  // What is sent to it stays with the server: a queue without a bound would hold all of it.
  await stop();
  const socket = server.sockets.at(-1)!;
  for (let at = 0; at < 64; at++) socket.send("x".repeat(1024 * 1024));
  let [amount, same] = [0, 0];
  await eventually(() => {
    same = amount === socket.bufferedAmount ? same + 1 : 0;
    amount = socket.bufferedAmount;
    return same === 20; // nothing more is taken
  });
  expect(socket.bufferedAmount).toBeGreaterThan(32 * 1024 * 1024);
  // The server drops it for that, and goes on without it.
  socket.terminate();
  for (let at = 0; at < 10; at++) publish();
  resume();
  await eventually(async () => (await seen()).length === 31);
  expect(await seen()).toEqual(events);
  expect(server.sockets.length).toBeGreaterThan(1);
});
