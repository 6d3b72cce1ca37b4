// An LLM relay with Stop on Hono and Node: `MODEL_KEY=… node hono-relay.mjs [PORT]`, POST /chat {"messages": […]}.
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { answer, firstWithin, HEADERS, messagesOf, PING, Refused } from "./relay.mjs";

const MAX_CHATS = 100;
let chats = 0;
const encoder = new TextEncoder();

const app = new Hono();
app.post("/chat", bodyLimit({ maxSize: 256 * 1024 }), async (c) => {
  const messages = messagesOf(await c.req.json().catch(() => undefined));
  if (chats >= MAX_CHATS) throw new Refused(503, "busy", "5"); // before anything is paid for
  chats++;
  const stop = new AbortController();
  c.req.raw.signal.addEventListener("abort", () => stop.abort()); // the client has disconnected
  const events = answer(messages, stop.signal);
  let heartbeat;
  let open = true;
  const end = () => {
    clearInterval(heartbeat);
    if (open) chats--;
    open = false;
  };
  let { first, head } = firstWithin(events);
  try {
    await head;
  } catch (error) {
    end();
    throw error;
  }
  const body = new ReadableStream({
    start(controller) {
      controller.enqueue(encoder.encode(PING)); // the response headers leave with the first bytes
      heartbeat = setInterval(() => controller.enqueue(encoder.encode(PING)), 15_000);
    },
    // Called when the client has room: its pace bounds what waits here.
    async pull(controller) {
      try {
        const { value, done } = await first;
        first = events.next();
        first.catch(() => {});
        if (!done) return controller.enqueue(encoder.encode(value));
      } catch (error) {
        if (stop.signal.aborted) return end();
        const code = error instanceof Refused ? error.code : "internal";
        controller.enqueue(encoder.encode(`event: failed\ndata: ${JSON.stringify({ code, retryable: true })}\n\n`));
      }
      end();
      controller.close();
    },
    cancel() {
      stop.abort(); // also while the model has sent nothing
      end();
    },
  });
  return c.body(body, 200, HEADERS);
});
app.onError((error, c) => {
  if (!(error instanceof Refused)) console.error(error);
  const { status = 500, code = "internal", retryAfter } = error instanceof Refused ? error : {};
  return c.json({ code }, status, retryAfter && { "retry-after": retryAfter });
});

const server = serve({ fetch: app.fetch, port: +(process.argv[2] ?? 3000), hostname: "127.0.0.1" }, ({ port }) =>
  console.log(`listening 127.0.0.1:${port}`),
);
process.once("SIGTERM", () => server.close(() => process.exit())); // answers that are paid for are finished
