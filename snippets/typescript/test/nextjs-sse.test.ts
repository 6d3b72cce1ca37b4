// The event stream of the Next.js application, from outside.
import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";
import { createGunzip } from "node:zlib";
import { describe, expect, test } from "vitest";
import { EventStreamParser, eventStream, type ServerSentEvent } from "../src/sse/event-stream.ts";
import { openPage } from "./support/browser.ts";
import { type Job, newJob, origin, state } from "./support/nextjs.ts";
import { eventually } from "./support/server.ts";

const url = (job: Job): string => `${origin()}/api/jobs/${job.id}/events`;

interface Stream {
  response: Response;
  next: () => Promise<ServerSentEvent | undefined>;
  leave: () => void;
}

async function open(address: string, headers: Record<string, string> = {}): Promise<Stream> {
  const abort = new AbortController();
  const response = await fetch(address, { headers, signal: abort.signal });
  const reader = (response.body ?? new ReadableStream()).pipeThrough(eventStream()).getReader();
  return { response, next: async () => (await reader.read()).value, leave: () => abort.abort() };
}

/** Types and ids up to the end, pings left out. */
async function rest({ next }: Stream): Promise<ServerSentEvent[]> {
  const events = [];
  for (let event = await next(); event !== undefined; event = await next())
    if (event.type !== "ping") events.push(event);
  return events;
}

describe("an event stream from a route handler", () => {
  test("sends head and heartbeat at once, each event as it comes, and ends after the last one", async () => {
    const job = await newJob();
    const stream = await open(url(job), { "accept-encoding": "gzip, br" });
    expect(stream.response.status).toBe(200);
    expect(stream.response.headers.get("content-encoding")).toBeNull();
    expect(await stream.next()).toMatchObject({ type: "ping", data: "{}" });
    for (const step of [1, 2, 3]) {
      await job.publish("progress", { step });
      expect(await stream.next()).toMatchObject({ type: "progress", data: JSON.stringify({ step }) });
    }
    await job.publish("done", {}, true);
    expect((await rest(stream)).map(({ type }) => type)).toEqual(["done"]);
    expect(await job.readers()).toBe(0);
    expect((await fetch(`${origin()}/api/jobs/unknown/events`)).status).toBe(404);
  });

  test("goes on after the cursor, says reset where it cannot, and answers the last cursor with 204", async () => {
    const job = await newJob(3);
    const first = await open(url(job));
    await first.next();
    for (const step of [1, 2]) await job.publish("progress", { step });
    await first.next();
    const { lastEventId } = (await first.next())!;
    first.leave();
    await job.publish("progress", { step: 3 });
    await job.publish("done", {}, true);
    const types = async (query: string, headers: Record<string, string>): Promise<string[]> =>
      (await rest(await open(url(job) + query, headers))).map(({ type, data }) => type + data);
    const following = ['progress{"step":3}', "done{}"];
    expect(await types("", { "last-event-id": lastEventId })).toEqual(following);
    expect(await types(`?lastEventId=${lastEventId}`, {})).toEqual(following);
    // Trimmed, of another run, from the future, garbage.
    const epoch = lastEventId.split("-")[0]!;
    for (const cursor of [`${epoch}-0`, "00000000-1", `${epoch}-99`, "x"]) {
      expect(await types("", { "last-event-id": cursor }), cursor).toEqual([
        "reset{}",
        'progress{"step":2}',
        ...following,
      ]);
    }
    const last = await open(url(job), { "last-event-id": `${epoch}-4` });
    expect(last.response.status).toBe(204);
  });

  test("a reader that was overtaken is told so", async () => {
    const job = await newJob(2);
    const stream = await open(url(job));
    await stream.next();
    // Nothing is read meanwhile, and the socket takes some: enough for all buffers on the way.
    const text = "x".repeat(64_000);
    for (let step = 1; step <= 300; step++) await job.publish("progress", { step, text });
    await job.publish("done", {}, true);
    const types = (await rest(stream)).map(({ type }) => type);
    expect(types).toContain("reset");
    expect(types.at(-1)).toBe("done");
    expect(types.length).toBeLessThan(301);
  });

  test("notices at once that a client has left, also while nothing is sent", async () => {
    // With both signs of it, with cancel() alone, with request.signal alone.
    for (const path of ["/api/jobs/ID/events", "/testing/compressed?job=ID", "/wrong/silent/ID"]) {
      const job = await newJob();
      await job.publish("progress", {});
      const { next, leave } = await open(origin() + path.replace("ID", job.id));
      await next();
      expect(await job.readers()).toBe(1);
      leave();
      await eventually(async () => (await job.readers()) === 0);
    }
  });

  test("without no-transform Next compresses it, and still flushes each chunk", async () => {
    const job = await newJob();
    await job.publish("progress", { step: 1 });
    const request = get(`${origin()}/testing/compressed?job=${job.id}`, { headers: { "accept-encoding": "gzip" } });
    const [response] = (await once(request, "response")) as [IncomingMessage];
    expect(response.headers["content-encoding"]).toBe("gzip");
    const parser = new EventStreamParser();
    const chunks = response.pipe(createGunzip())[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    const next = async (): Promise<string> => {
      for (;;) {
        const events = [...parser.push((await chunks.next()).value.toString())];
        if (events.length > 0) return events[0]!.data;
      }
    };
    expect(await next()).toBe('{"step":1}');
    await job.publish("progress", { step: 2 });
    expect(await next()).toBe('{"step":2}');
    request.destroy();
  });

  test("EventSource reads it to the end and stays away after the 204", async () => {
    const job = await newJob();
    const page = await openPage(origin());
    const asked: (string | undefined)[] = [];
    page.on(
      "request",
      (request) => void (request.url().includes(job.id) && asked.push(request.headers()["last-event-id"])),
    );
    const outcome = page.evaluate(async (id) => {
      const source = new EventSource(`/api/jobs/${id}/events`);
      const seen: string[] = [];
      for (const type of ["progress", "done"])
        source.addEventListener(type, ({ data }: MessageEvent<string>) => void seen.push(type + data));
      // It closes after the 204, which it gets since nothing here calls close() at the terminal event.
      await new Promise<void>((resolve) =>
        source.addEventListener("error", () => source.readyState === source.CLOSED && resolve()),
      );
      return seen;
    }, job.id);
    await eventually(async () => (await job.readers()) === 1);
    await job.publish("progress", { step: 1 });
    await job.publish("done", {}, true);
    expect(await outcome).toEqual(['progress{"step":1}', "done{}"]);
    expect(asked).toHaveLength(2);
  });

  test("a client that does not read stops the producer", async () => {
    const request = get(`${origin()}/testing/chunks`);
    const [response] = (await once(request, "response")) as [IncomingMessage];
    response.pause();
    const pulled = async (): Promise<number> => (await state()).counters["pulled"] ?? 0;
    let last = -1;
    for (let still = 0; still < 20; ) {
      const now = await pulled();
      still = now === last ? still + 1 : 0;
      last = now;
    }
    expect(last).toBeLessThan(500); // of 1,000: what the buffers of both sockets take
    request.destroy();
  });

  test("maxDuration ends nothing under next start", async () => {
    const job = await newJob();
    await job.publish("progress", { step: 1 });
    const { next } = await open(`${origin()}/testing/compressed?job=${job.id}`); // with maxDuration = 1
    await next();
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    await job.publish("done", {}, true);
    expect(await next()).toMatchObject({ type: "done" });
  });
});
