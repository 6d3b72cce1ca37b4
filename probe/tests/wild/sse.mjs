// Event streams: better-sse on node:http and on Express, Hono, @fastify/sse.
import { createServer } from "node:http";
import { createChannel, createEventBuffer, createSession } from "better-sse";
import express from "express";

const [, , kind] = process.argv;
let count = 0;

function listen(handler) {
  const server = createServer(handler);
  server.listen(0, "127.0.0.1", () => console.log(`listening 127.0.0.1:${server.address().port}`));
}

if (kind === "better-sse") {
  const channel = createChannel();
  listen(async (request, response) => {
    if (request.url === "/publish") {
      channel.broadcast({ n: ++count });
      response.writeHead(204).end();
    } else if (request.url.startsWith("/events") && request.method === "GET") {
      channel.register(await createSession(request, response));
    } else {
      response.writeHead(404).end("not found");
    }
  });
} else if (kind === "better-sse-history") {
  // As its documentation shows resume: the session's lastId, and a history of one's own.
  const channel = createChannel();
  const history = [];
  const app = express();
  app.post("/publish", (_request, response) => {
    const id = String(++count);
    history.push({ id, n: count });
    channel.broadcast({ n: count }, "message", { eventId: id });
    response.status(204).end();
  });
  app.get("/events", async (request, response) => {
    const session = await createSession(request, response);
    const last = Number(session.lastId || NaN);
    if (!Number.isNaN(last) && last <= count) {
      const buffer = createEventBuffer();
      for (const event of history.filter((event) => Number(event.id) > last)) {
        buffer.push({ n: event.n }, "message", event.id);
      }
      await session.batch(buffer);
    }
    channel.register(session);
  });
  listen(app);
} else if (kind === "hono" || kind === "hono-careful") {
  const { Hono } = await import("hono");
  const { getRequestListener } = await import("@hono/node-server");
  const { streamSSE } = await import("hono/streaming");
  const app = new Hono();
  const log = [];
  const readers = new Set();
  app.post("/publish", (c) => {
    log.push({ id: String(log.length + 1), data: JSON.stringify({ n: log.length + 1 }) });
    for (const wake of readers) wake();
    return c.body(null, 204);
  });
  app.get("/events", (c) => {
    if (kind === "hono") {
      // The example of its documentation, and the events of one's own: ids, and nothing that reads them.
      return streamSSE(c, async (stream) => {
        let at = log.length;
        while (!stream.aborted) {
          while (at < log.length) await stream.writeSSE(log[at++]);
          await new Promise((resolve) => {
            readers.add(resolve);
            stream.onAbort(resolve);
          });
        }
      });
    }
    c.header("X-Accel-Buffering", "no");
    return streamSSE(c, async (stream) => {
      const cursor = c.req.header("Last-Event-ID") ?? "";
      const known = /^[0-9]{1,9}$/.test(cursor) && Number(cursor) <= log.length;
      let at = known ? Number(cursor) : log.length;
      if (cursor && !known) await stream.writeSSE({ event: "reset", data: "{}", id: String(at) });
      let wake = () => {};
      const notify = () => wake();
      readers.add(notify);
      stream.onAbort(() => {
        readers.delete(notify);
        notify();
      });
      while (!stream.aborted) {
        while (at < log.length && !stream.aborted) await stream.writeSSE(log[at++]);
        const changed = new Promise((resolve) => {
          wake = () => resolve(true);
          setTimeout(resolve, 2000, false);
        });
        if (!(await changed)) await stream.writeSSE({ event: "ping", data: "{}" });
      }
    });
  });
  const listener = getRequestListener(app.fetch);
  listen(listener);
} else if (kind === "fastify") {
  // As its README shows resume.
  const { default: fastify } = await import("fastify");
  const { default: sse } = await import("@fastify/sse");
  const app = fastify();
  await app.register(sse);
  app.addContentTypeParser("*", (_request, _payload, done) => done(null));
  const log = [];
  const sessions = new Set();
  app.post("/publish", (_request, reply) => {
    const event = { id: String(log.length + 1), data: { n: log.length + 1 } };
    log.push(event);
    for (const session of sessions) session.send(event).catch(() => {});
    reply.code(204).send();
  });
  app.get("/events", { sse: true }, async (_request, reply) => {
    reply.sse.keepAlive();
    await reply.sse.replay(async (last) => {
      const known = /^[0-9]{1,9}$/.test(last) && Number(last) <= log.length;
      if (!known) return reply.sse.send({ event: "reset", data: {} });
      for (const event of log.slice(Number(last))) await reply.sse.send(event);
    });
    sessions.add(reply.sse);
    reply.sse.onClose(() => sessions.delete(reply.sse));
    if (!reply.sse.lastEventId) await reply.sse.send({ event: "hello", data: {} });
  });
  await app.listen({ host: "127.0.0.1", port: 0 });
  console.log(`listening 127.0.0.1:${app.server.address().port}`);
}
