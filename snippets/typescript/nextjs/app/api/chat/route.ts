// An answer of a model in the events that `llm/read-chat.ts` and `llm/use-token-stream.tsx` read.
import { after } from "next/server";
import { answer, type Message, refusal, toEvent } from "@/lib/answer.ts";
import { answers } from "@/lib/answers.ts";
import { readJson } from "@/lib/read-json.ts";
import { chooseModel, SETTINGS, unreadMs } from "@/lib/settings.ts";
import { COMMENT, encodeEvent, STREAM_HEADERS } from "@/streaming/sse/encode.ts";
import { endUnread, holdFirst, pullFrom, withHeartbeat } from "@/streaming/streams/readable.ts";

// ANCHOR: route
/** Seconds after which a platform ends the function, in the middle of a word; `next start` ignores it. */
export const maxDuration = 300;

const PING = SETTINGS.ping === null ? COMMENT : encodeEvent({ type: SETTINGS.ping, data: {} });

type Body = { model?: unknown; messages?: unknown };

export async function POST(request: Request): Promise<Response> {
  // Authenticate and limit the user here: 401, 403 and 429 are possible only before the first chunk.
  const body = (await readJson(request, SETTINGS.maxBody)) as Body | null | undefined;
  const model = chooseModel(body?.model);
  const messages = parse(body?.messages);
  if (typeof messages === "string") return refusal({ code: messages, retryable: false });
  if (model === undefined) return refusal({ code: "unknown_model", retryable: false });

  const record = { question: messages.at(-1)!.content, text: "", outcome: "stopped" };
  // Runs when the response has ended, even if the client has left; a platform keeps the process alive until then.
  after(() => answers.push(record));

  const left = new AbortController();
  const { early, all } = await holdFirst(
    answer(model, messages, AbortSignal.any([left.signal, request.signal])),
    SETTINGS.headMs,
  );
  if (early?.kind === "failed") {
    record.outcome = "failed";
    await all.return();
    return refusal(early.failed);
  }
  const events = pullFrom(async function* (signal) {
    signal.addEventListener("abort", () => left.abort());
    for await (const part of all) {
      if (part.kind === "text") record.text += part.text;
      else if (part.kind === "done" || part.kind === "failed") record.outcome = part.kind;
      yield encodeEvent(toEvent(part));
    }
  });
  const stream = withHeartbeat(events, PING, SETTINGS.pingEveryMs);
  return new Response(endUnread(stream, unreadMs()), { headers: STREAM_HEADERS });
}
// ANCHOR_END: route

/** The messages for the provider, or the code of a refusal. A client can also forge the assistant's messages. */
function parse(sent: unknown): Message[] | "invalid" | "role_refused" {
  if (!Array.isArray(sent) || sent.length === 0 || sent.length > SETTINGS.maxMessages) return "invalid";
  const { instruction, roles } = SETTINGS;
  const messages: Message[] = instruction === "" ? [] : [{ role: "system", content: instruction }];
  for (const message of sent as ({ role?: unknown; content?: unknown } | null)[]) {
    if (typeof message?.role !== "string" || typeof message.content !== "string") return "invalid";
    if (!Object.hasOwn(roles, message.role)) return "role_refused";
    messages.push({ role: roles[message.role]!, content: message.content });
  }
  return messages;
}
