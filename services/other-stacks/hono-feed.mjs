// A feed with resume on Hono and Node: `node hono-feed.mjs [PORT]`. The contract is that of node-feed.mjs.
import { randomBytes } from "node:crypto";
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";

const MAX_EVENTS = 1000; // kept for clients that reconnect
const MAX_STREAMS = 500; // below `ulimit -n`
const MAX_BUFFERED = 256 * 1024; // bytes that wait for one client
const HEADERS = {
  "content-type": "text/event-stream",
  // Hono's `streamSSE` sets `no-cache` alone: compressors may then hold events back.
  "cache-control": "no-cache, no-store, no-transform",
  "x-accel-buffering": "no",
};

const epoch = randomBytes(4).toString("hex");
const log = [];
let first = 1; // sequence number of log[0]
let stopping = false;
const streams = new Set();
const next = () => first + log.length;
const retry = () => 1500 + Math.floor(Math.random() * 3000);
const encoder = new TextEncoder();

function publish(name, data) {
  const block = encoder.encode(`id: ${epoch}-${next()}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
  log.push(block);
  if (log.length > MAX_EVENTS) {
    log.shift();
    first++;
  }
  for (const stream of streams) send(stream, block);
}

function send(stream, block) {
  stream.enqueue(block);
  if (stream.desiredSize > 0) return;
  streams.delete(stream); // it does not read: cut, it reconnects with its cursor
  stream.error(new Error("the client does not keep up"));
}

/** What a client with this cursor is sent first. */
function* replay(cursor) {
  const [, life, seq] = /^([0-9a-f]+)-(0|[1-9]\d{0,14})$/.exec(cursor) ?? [];
  let reason = "";
  if (cursor !== "" && seq === undefined) reason = "invalid";
  else if (seq !== undefined && life !== epoch) reason = "epoch";
  else if (seq >= next()) reason = "ahead";
  else if (+seq + 1 < first) reason = "trimmed";
  const start = reason ? first : cursor === "" ? next() : +seq + 1; // a newcomer starts at the next event
  yield encoder.encode(`${reason ? "" : `id: ${epoch}-${start - 1}\n`}retry: ${retry()}\n\n`);
  if (reason) yield encoder.encode(`id: ${epoch}-${start - 1}\nevent: reset\ndata: {"reason":"${reason}"}\n\n`);
  yield* log.slice(start - first);
}

const app = new Hono();
app.get("/events", (c) => {
  if (c.req.method === "HEAD") return c.body(null, 200, HEADERS); // Hono runs the GET handler for HEAD
  if (streams.size >= MAX_STREAMS || stopping) return c.body(null, 503, { "retry-after": "5" });
  const cursor = c.req.header("last-event-id") ?? c.req.query("lastEventId") ?? "";
  let stream;
  const body = new ReadableStream(
    {
      start(controller) {
        for (const block of replay(cursor)) controller.enqueue(block);
        streams.add((stream = controller));
      },
      cancel: () => streams.delete(stream), // the client has disconnected
    },
    new ByteLengthQueuingStrategy({ highWaterMark: MAX_BUFFERED }),
  );
  return c.body(body, 200, HEADERS);
});
app.post("/events", bodyLimit({ maxSize: 64 * 1024 }), async (c) => {
  const { event, data } = (await c.req.json().catch(() => undefined)) ?? {};
  const reserved = /^(error|open|reset|ping|restart)$/.test(event);
  if (!/^[A-Za-z0-9._:~-]{1,64}$/.test(event) || reserved || data === undefined) return c.body(null, 422);
  publish(event, data);
  return c.body(null, 202);
});

const ping = encoder.encode("event: ping\ndata: {}\n\n");
setInterval(() => streams.forEach((stream) => send(stream, ping)), 15_000).unref();
const server = serve({ fetch: app.fetch, port: +(process.argv[2] ?? 3000), hostname: "127.0.0.1" }, ({ port }) =>
  console.log(`listening 127.0.0.1:${port}`),
);
process.once("SIGTERM", () => {
  stopping = true;
  server.close(() => process.exit());
  for (const stream of streams) {
    stream.enqueue(encoder.encode("event: restart\ndata: {}\n\n"));
    stream.close();
  }
});
