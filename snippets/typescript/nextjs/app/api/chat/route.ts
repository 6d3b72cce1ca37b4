// An answer of a model in the events that `llm/read-chat.ts` and `llm/use-token-stream.tsx` read.
// ANCHOR: route
import { after } from "next/server";
import { answer, type Message } from "@/lib/answer.ts";
import { answers } from "@/lib/answers.ts";
import { chooseModel } from "@/lib/models.ts";
import { readJson } from "@/lib/read-json.ts";
import { CHAT_EVENTS } from "@/streaming/llm/chat-events.ts";
import { encodeEvent, STREAM_HEADERS } from "@/streaming/sse/encode.ts";
import { pullFrom, withHeartbeat } from "@/streaming/streams/readable.ts";

/** Seconds after which a platform ends the function, in the middle of a word; `next start` ignores it. */
export const maxDuration = 300;

const PING = encodeEvent({ type: "ping", data: {} });

export async function POST(request: Request): Promise<Response> {
  // Here the user is known and has a place left: 401, 403 and 429 are possible before the first chunk only.
  const body = (await readJson(request, 64 * 1024)) as { model?: unknown; messages?: unknown } | null | undefined;
  const model = chooseModel(body?.model);
  const messages = parse(body?.messages);
  if (model === undefined || messages === undefined)
    return Response.json({ code: "invalid", retryable: false }, { status: 400 });

  const record = { question: messages.at(-1)!.content, text: "", outcome: "stopped" };
  // Runs when the response has ended and when the client has left; a platform keeps the process alive until then.
  after(() => answers.push(record));

  const events = pullFrom(async function* (signal) {
    for await (const event of answer(model, messages, AbortSignal.any([signal, request.signal]))) {
      if (event.type === CHAT_EVENTS.text) record.text += (event.data as { text: string }).text;
      if (event.type === CHAT_EVENTS.done) record.outcome = "done";
      if (event.type === CHAT_EVENTS.failed) record.outcome = "failed";
      yield encodeEvent(event);
    }
  });
  return new Response(withHeartbeat(events, PING), { headers: STREAM_HEADERS });
}

/** No `system` message: that role is ours. What a client says the assistant has said is the client's word too. */
function parse(messages: unknown): Message[] | undefined {
  if (!Array.isArray(messages) || messages.length === 0 || messages.length > 100) return undefined;
  const valid = (messages as Partial<Message>[]).every(
    (message) => (message?.role === "user" || message?.role === "assistant") && typeof message.content === "string",
  );
  return valid ? messages.map(({ role, content }: Message) => ({ role, content })) : undefined;
}
// ANCHOR_END: route
