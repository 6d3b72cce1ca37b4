// A feed with resume on plain node:http, the same with Express: `node node-feed.mjs [PORT]`.
// GET /events reads; POST /events {"event": "order", "data": {…}} publishes, and belongs behind your authentication.
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";

// ANCHOR: log
const MAX_EVENTS = 1000; // kept for clients that reconnect
const MAX_STREAMS = 500; // below `ulimit -n`
const MAX_BUFFERED = 256 * 1024; // bytes that wait for one client; `write` itself has no bound
const MAX_BODY = 64 * 1024;
const HEARTBEAT_MS = 15_000;
const HEADERS = {
  "content-type": "text/event-stream",
  "cache-control": "no-cache, no-store, no-transform", // keeps compressors and Chromium's read-ahead away
  "x-accel-buffering": "no", // nginx passes each event on
};

const epoch = randomBytes(4).toString("hex"); // a cursor of an earlier process is recognized
const log = []; // blocks, the oldest first
let first = 1; // sequence number of log[0]
const streams = new Set();
const next = () => first + log.length;

function publish(name, data) {
  // JSON has no raw line break, and the name is checked: nothing can be injected into the format.
  const block = `id: ${epoch}-${next()}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
  log.push(block);
  if (log.length > MAX_EVENTS) {
    log.shift();
    first++;
  }
  for (const stream of streams) send(stream, block);
}

function send(stream, block) {
  // A client that does not read is cut. It reconnects with its cursor and misses nothing that the log still has.
  if (stream.writableLength > MAX_BUFFERED) stream.destroy();
  else stream.write(block);
}

// ANCHOR_END: log
// ANCHOR: replay
/** The events after the cursor; a cursor that cannot be used is a `reset`, never silence. */
function replay(cursor) {
  if (cursor === "") return `id: ${epoch}-${next() - 1}\nretry: ${retry()}\n\n`; // from now; or from `first`
  const [, life, seq] = /^([0-9a-f]+)-(0|[1-9]\d{0,14})$/.exec(cursor) ?? [];
  const reason =
    seq === undefined ? "invalid" : life !== epoch ? "epoch" : seq >= next() ? "ahead" : +seq + 1 < first && "trimmed";
  if (!reason) return `retry: ${retry()}\n\n` + log.slice(+seq + 1 - first).join("");
  return (
    `retry: ${retry()}\n\nid: ${epoch}-${first - 1}\nevent: reset\ndata: {"reason":"${reason}"}\n\n` + log.join("")
  );
}

const retry = () => 1500 + Math.floor(Math.random() * 3000); // so that not all clients reconnect at once after a restart

// ANCHOR_END: replay
// ANCHOR: respond
function events(request, response, url) {
  if (request.method === "HEAD") return response.writeHead(200, HEADERS).end();
  if (streams.size >= MAX_STREAMS || stopping) return response.writeHead(503, { "retry-after": "5" }).end();
  request.socket.setNoDelay(true);
  const cursor = request.headers["last-event-id"] ?? url.searchParams.get("lastEventId") ?? "";
  response.writeHead(200, HEADERS).write(replay(cursor)); // headers are sent now, before the first event
  streams.add(response);
  response.on("close", () => streams.delete(response));
}

// ANCHOR_END: respond
async function receive(request, response) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    if ((size += chunk.length) > MAX_BODY) return response.writeHead(413, { connection: "close" }).end();
    chunks.push(chunk);
  }
  let message = {};
  try {
    message = JSON.parse(Buffer.concat(chunks).toString());
  } catch {}
  const ok =
    /^[A-Za-z0-9._:~-]{1,64}$/.test(message?.event) && !/^(error|open|reset|ping|restart)$/.test(message.event);
  if (!ok || message.data === undefined) return response.writeHead(422).end();
  publish(message.event, message.data);
  response.writeHead(202).end();
}

const server = createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const known = url.pathname === "/events";
  if (known && ["GET", "HEAD"].includes(request.method)) events(request, response, url);
  else if (known && request.method === "POST") receive(request, response).catch(() => response.destroy());
  else response.writeHead(known ? 405 : 404, known ? { allow: "GET, HEAD, POST" } : {}).end();
});

// ANCHOR: end
// An event, since EventSource hides comments from the page: the page can thus distinguish silence from a dead connection.
setInterval(() => streams.forEach((stream) => send(stream, "event: ping\ndata: {}\n\n")), HEARTBEAT_MS).unref();
let stopping = false;
process.once("SIGTERM", () => {
  stopping = true; // Node waits for open responses: when they have ended in band, the process exits
  server.close(() => process.exit());
  for (const stream of streams) stream.end("event: restart\ndata: {}\n\n");
  server.closeIdleConnections();
});
// ANCHOR_END: end
server.listen(process.argv[2] ?? 3000, "127.0.0.1", () => console.log(`listening 127.0.0.1:${server.address().port}`));
