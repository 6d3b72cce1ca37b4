// An LLM relay with Stop on plain node:http: `MODEL_KEY=… node node-relay.mjs [PORT]`, POST /chat {"messages": […]}.
import { once } from "node:events";
import { createServer } from "node:http";
import { answer, firstWithin, HEADERS, messagesOf, PING, Refused } from "./relay.mjs";

const MAX_CHATS = 100;
const MAX_BODY = 256 * 1024;
let chats = 0;

async function bodyOf(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    if ((size += chunk.length) > MAX_BODY) throw new Refused(413, "too_large");
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString());
  } catch {
    throw new Refused(422, "invalid_json");
  }
}

async function chat(request, response) {
  const stop = new AbortController();
  response.once("close", () => stop.abort()); // Stop, or a lost client: also before the first token
  const messages = messagesOf(await bodyOf(request));
  if (chats >= MAX_CHATS) throw new Refused(503, "busy", "5"); // before anything is paid for
  chats++;
  const events = answer(messages, stop.signal);
  let heartbeat;
  try {
    const { first, head } = firstWithin(events);
    await head;
    response.writeHead(200, HEADERS).flushHeaders();
    heartbeat = setInterval(() => response.write(PING), 15_000);
    for (let next = await first; !next.done; next = await events.next()) {
      // The reader's pace bounds what waits here.
      if (!response.write(next.value)) await once(response, "drain", { signal: stop.signal });
    }
    response.end();
  } finally {
    clearInterval(heartbeat);
    chats--;
  }
}

const server = createServer((request, response) => {
  if (new URL(request.url, "http://x").pathname !== "/chat") return response.writeHead(404).end();
  if (request.method !== "POST") return response.writeHead(405, { allow: "POST" }).end();
  chat(request, response).catch((error) => {
    if (response.destroyed) return;
    if (response.headersSent) {
      // A refusal that came late: too late for a status.
      const code = error instanceof Refused ? error.code : "internal";
      return response.end(`event: failed\ndata: ${JSON.stringify({ code, retryable: true })}\n\n`);
    }
    if (!(error instanceof Refused)) console.error(error);
    const { status = 500, code = "internal", retryAfter } = error instanceof Refused ? error : {};
    const headers = { "content-type": "application/json", ...(retryAfter && { "retry-after": retryAfter }) };
    response.writeHead(status, headers).end(JSON.stringify({ code }));
  });
});
process.once("SIGTERM", () => server.close(() => process.exit())); // answers that are paid for are finished
server.listen(process.argv[2] ?? 3000, "127.0.0.1", () => console.log(`listening 127.0.0.1:${server.address().port}`));
