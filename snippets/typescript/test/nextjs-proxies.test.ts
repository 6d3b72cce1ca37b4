// The Next.js application in front of the Rust patterns, and behind nginx.
import { describe, expect, inject, test } from "vitest";
import WebSocket from "ws";
import { postChat, readChat } from "../src/llm/read-chat.ts";
import { eventStream } from "../src/sse/event-stream.ts";
import { Rooms } from "../src/websocket/rooms.ts";
import { exchanges, logText, newJob, origin } from "./support/nextjs.ts";
import { BARE, OF_THE_BOOK, startNginx } from "./support/nginx.ts";
import { eventually } from "./support/server.ts";

interface Stream {
  encoding: string | null;
  next: () => Promise<string>;
  leave: () => void;
}

/** An event stream, asked for as a browser does; pings left out. */
async function open(url: string): Promise<Stream> {
  const abort = new AbortController();
  const response = await fetch(url, { headers: { "accept-encoding": "gzip, deflate, br" }, signal: abort.signal });
  expect(response.status).toBe(200);
  const reader = response.body!.pipeThrough(eventStream()).getReader();
  const next = async (): Promise<string> => {
    for (;;) {
      const { type, data } = (await reader.read()).value!;
      if (!["ping", "heartbeat", "reset"].includes(type)) return type + data;
    }
  };
  return { encoding: response.headers.get("content-encoding"), next, leave: () => abort.abort() };
}

/** Events one by one: the next is published when the one before has arrived. */
async function oneByOne(stream: Stream, publish: (nth: number) => Promise<unknown>): Promise<void> {
  expect(stream.encoding).toBeNull();
  for (const nth of [1, 2, 3]) {
    await publish(nth);
    expect(await stream.next()).toContain(String(nth));
  }
}

/** Leaves an answer of a silent model; its connection must close. */
async function leaveAnswer(url: string, question: string): Promise<void> {
  const stop = new AbortController();
  const body = { model: "scripted/stall", messages: [{ role: "user", content: question }] };
  const reading = readChat(postChat(url, body, stop.signal), () => stop.abort(new Error("Stop")));
  await expect(reading).rejects.toThrow("Stop");
  await eventually(async () => {
    const found = await exchanges(question);
    return found.length === 1 && found[0]!.end !== "None";
  });
}

describe("a rewrite to the Rust backend", () => {
  test("passes events on one by one, and the client's leaving", async () => {
    const scene = `scene/${crypto.randomUUID()}`;
    const stream = await open(`${origin()}/backend/${scene}/events`);
    await oneByOne(stream, (nth) =>
      fetch(`${inject("backend")}/${scene}/publish/tick`, { method: "POST", body: String(nth) }),
    );
    stream.leave();
    await leaveAnswer(`${origin()}/backend/llm/stall/chat`, "through a rewrite");
  });

  test("goes where it went when the application was built", async () => {
    // This process was started with another BACKEND_URL, where nobody listens.
    expect((await fetch(`${inject("second").origin}/backend/`)).status).toBe(200);
  });

  test("passes WebSockets on, which a route handler cannot take", async () => {
    const scene = `scene/${crypto.randomUUID()}`;
    const rooms = new Rooms({ url: () => `${origin().replace("http", "ws")}/backend/${scene}/rooms` });
    const reset = new Promise<void>((resolve) =>
      rooms.join("talk", { onEvent: () => undefined, onReset: () => resolve() }),
    );
    await reset;
    expect(await rooms.publish("talk", "hello")).toBeGreaterThan(0);
    rooms.close();

    const socket = new WebSocket(`${origin().replace("http", "ws")}/wrong/websocket`);
    const outcome = await new Promise<string>(
      (resolve) => void socket.on("open", () => resolve("open")).on("error", ({ message }) => resolve(message)),
    );
    expect(outcome).not.toBe("open");
  });
});

describe("behind nginx", () => {
  test("with the configuration of the book: routes and rewrites one by one, leaving noticed", async () => {
    const nginx = await startNginx(OF_THE_BOOK, origin());
    const job = await newJob();
    const stream = await open(`${nginx}/api/jobs/${job.id}/events`);
    await oneByOne(stream, (nth) => job.publish("progress", nth));
    expect(await job.readers()).toBe(1);
    stream.leave();
    await eventually(async () => (await job.readers()) === 0);
    await leaveAnswer(`${nginx}/api/chat`, "behind nginx");

    const scene = `scene/${crypto.randomUUID()}`;
    await oneByOne(await open(`${nginx}/backend/${scene}/events`), (nth) =>
      fetch(`${inject("backend")}/${scene}/publish/tick`, { method: "POST", body: String(nth) }),
    );
    const ui = await fetch(`${nginx}/api/ai`, {
      method: "POST",
      headers: { "accept-encoding": "gzip", "content-type": "application/json" },
      body: JSON.stringify({
        model: "scripted/stall",
        messages: [{ id: "1", role: "user", parts: [{ type: "text", text: "hi" }] }],
      }),
    });
    const reader = ui.body!.pipeThrough(new TextDecoderStream()).getReader();
    for (let seen = ""; !seen.includes("Hello "); ) seen += (await reader.read()).value;
    await reader.cancel();
  });

  test("with nothing but proxy_pass, thanks to X-Accel-Buffering", async () => {
    const nginx = await startNginx(BARE, origin());
    const job = await newJob();
    const stream = await open(`${nginx}/api/jobs/${job.id}/events`);
    await oneByOne(stream, (nth) => job.publish("progress", nth));
    stream.leave();
  });
});

test("onRequestError is told of what a handler throws and of what its body fails with", async () => {
  await fetch(`${origin()}/wrong/throws?late`)
    .then((response) => response.text())
    .catch(() => undefined);
  expect((await fetch(`${origin()}/wrong/throws?early`)).status).toBe(500);
  const logged = (path: string, error: string): boolean =>
    logText().includes(JSON.stringify({ path: `/wrong/throws?${path}=`, error }));
  await eventually(
    () =>
      logged("late", "Error: upstream 529: key sk-secret is over its limit") &&
      logged("early", "before the first chunk"),
  );
});
