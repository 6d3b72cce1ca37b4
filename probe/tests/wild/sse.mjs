// Event streams by hand on node:http, and with better-sse on node:http and on Express.
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
} else if (kind === "by-hand") {
  // What most tutorials show.
  const clients = new Set();
  listen((request, response) => {
    if (request.url === "/publish") {
      for (const client of clients) client.write(`data: ${JSON.stringify({ n: count })}\n\n`);
      count += 1;
      response.writeHead(204).end();
      return;
    }
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
    response.flushHeaders();
    clients.add(response);
    request.on("close", () => clients.delete(response));
  });
}
