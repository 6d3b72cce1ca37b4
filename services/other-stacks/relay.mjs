// The part of the relay that Node and Hono share: one answer of an OpenAI-compatible provider as events of a contract.
// Change the names in `EVENTS` to yours.
import { EventSourceParserStream } from "eventsource-parser/stream";

const { MODEL_URL = "https://api.openai.com/v1", MODEL = "gpt-5-mini", MODEL_KEY = "" } = process.env;
const SILENCE_MS = 300_000; // a model that thinks sends nothing for minutes; there is no total timeout
export const HEAD_MS = 500; // a refusal within this time becomes a status
const EVENTS = { text: "text", done: "done", failed: "failed" };
export const HEADERS = {
  "content-type": "text/event-stream",
  "cache-control": "no-cache, no-store, no-transform",
  "x-accel-buffering": "no",
};
export const PING = "event: ping\ndata: {}\n\n";
const block = (name, data) => `event: ${EVENTS[name]}\ndata: ${JSON.stringify(data)}\n\n`;

export class Refused extends Error {
  constructor(status, code, retryAfter) {
    super(code);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** The messages of a request. A `system` message of a client is refused: it would speak with your authority. */
export function messagesOf(body) {
  const valid = (m) => ["user", "assistant"].includes(m?.role) && typeof m.content === "string";
  const messages = body?.messages;
  if (!Array.isArray(messages) || messages.length === 0 || messages.length > 200 || !messages.every(valid))
    throw new Refused(422, "invalid_messages");
  return messages.map(({ role, content }) => ({ role, content }));
}

// ANCHOR: answer
/** Starts the answer. Aborting `signal` closes the provider's connection: that is Stop. */
export async function* answer(messages, signal) {
  const silence = new AbortController();
  const stopped = AbortSignal.any([signal, silence.signal]);
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const body = { model: MODEL, messages, stream: true, stream_options: { include_usage: true } };
    const response = await fetch(`${MODEL_URL}/chat/completions`, {
      method: "POST",
      redirect: "error", // a redirect would take the key and the conversation to another host
      signal: stopped,
      headers: { "content-type": "application/json", authorization: `Bearer ${MODEL_KEY}` },
      body: JSON.stringify(body),
    });
    if (!response.ok) {
      console.error("provider:", response.status, (await response.text()).slice(0, 500)); // for our log, not for the client
      const busy = [429, 503, 529].includes(response.status);
      throw new Refused(busy ? 429 : 502, busy ? "busy" : "model_failed", response.headers.get("retry-after") ?? "5");
    }
    let reason, usage, ended;
    const events = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
    for await (const { data } of events) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      if ((ended = data === "[DONE]")) break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(`provider: ${data.slice(0, 500)}`);
      const choice = chunk.choices?.[0]; // the usage chunk has no choices
      if (choice?.delta?.content) yield block("text", { text: choice.delta.content });
      reason = choice?.finish_reason || reason;
      usage = chunk.usage ?? usage; // a total, not an increment
    }
    // Complete only with a finish reason: a connection that is cut looks like a normal end.
    if (reason && ended) yield block("done", { reason, usage });
    else yield block("failed", { code: "truncated", retryable: true });
  } catch (error) {
    if (error instanceof Refused || signal.aborted) throw error;
    console.error(error);
    yield block("failed", { code: silence.signal.aborted ? "timeout" : "model_failed", retryable: true });
  } finally {
    clearTimeout(timer);
  }
}

// ANCHOR_END: answer
/** The first event, or `undefined` if it takes longer than `HEAD_MS`. Throws what refuses the answer. */
export function firstWithin(events) {
  const first = events.next();
  first.catch(() => {}); // handled by whoever awaits it
  const late = new Promise((resolve) => setTimeout(resolve, HEAD_MS));
  return { first, head: Promise.race([first, late]) };
}
