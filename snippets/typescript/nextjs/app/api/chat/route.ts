// An answer of a model in the events that `llm/read-chat.ts` and `llm/use-token-stream.tsx` read.
// ANCHOR: route
import { after } from "next/server";
import { answer, type Message, refusal } from "@/lib/answer.ts";
import { answers } from "@/lib/answers.ts";
import { readJson } from "@/lib/read-json.ts";
import { chooseModel, SETTINGS, unreadMs } from "@/lib/settings.ts";
import { CHAT_DATA, CHAT_EVENTS } from "@/streaming/llm/chat-events.ts";
import { COMMENT, encodeEvent, STREAM_HEADERS } from "@/streaming/sse/encode.ts";
import { endUnread, holdFirst, pullFrom, withHeartbeat } from "@/streaming/streams/readable.ts";

/** Seconds after which a platform ends the function, in the middle of a word; `next start` ignores it. */
export const maxDuration = 300;

const PING = SETTINGS.ping === null ? COMMENT : encodeEvent({ type: SETTINGS.ping, data: {} });

type Body = { model?: unknown; messages?: unknown };

export async function POST(request: Request): Promise<Response> {
  // Here the user is known and has a place left: 401, 403 and 429 are possible before the first chunk only.
  const body = (await readJson(request, SETTINGS.maxBody)) as Body | null | undefined;
  const model = chooseModel(body?.model);
  const messages = parse(body?.messages);
  if (model === undefined || messages === undefined)
    return Response.json(SETTINGS.refusal({ code: "invalid", retryable: false }), { status: SETTINGS.invalid });

  const record = { question: messages.at(-1)!.content, text: "", outcome: "stopped" };
  // Runs when the response has ended and when the client has left; a platform keeps the process alive until then.
  after(() => answers.push(record));

  const left = new AbortController();
  const { early, all } = await holdFirst(
    answer(model, messages, AbortSignal.any([left.signal, request.signal])),
    SETTINGS.headMs,
  );
  if (early?.type === CHAT_EVENTS.failed) {
    record.outcome = "failed";
    return refusal(early);
  }
  const events = pullFrom(async function* (signal) {
    signal.addEventListener("abort", () => left.abort());
    for await (const event of all) {
      if (event.type === CHAT_EVENTS.text) record.text += CHAT_DATA.text.read(event.data);
      if (event.type === CHAT_EVENTS.done) record.outcome = "done";
      if (event.type === CHAT_EVENTS.failed) record.outcome = "failed";
      yield encodeEvent(event);
    }
  });
  const stream = withHeartbeat(events, PING, SETTINGS.pingEveryMs);
  return new Response(endUnread(stream, unreadMs()), { headers: STREAM_HEADERS });
}

/** What a client says the assistant has said is the client's word too. */
function parse(messages: unknown): Message[] | undefined {
  if (!Array.isArray(messages) || messages.length === 0 || messages.length > SETTINGS.maxMessages) return undefined;
  const valid = (messages as Partial<Message>[]).every(
    (message) => SETTINGS.roles.includes(String(message?.role)) && typeof message.content === "string",
  );
  return valid ? messages.map(({ role, content }: Message) => ({ role, content })) : undefined;
}
// ANCHOR_END: route
