// An answer of a model with the AI SDK 7, for `useChat`.
// ANCHOR: route
import { createOpenAI } from "@ai-sdk/openai";
import {
  convertToModelMessages,
  createUIMessageStreamResponse,
  safeValidateUIMessages,
  streamText,
  toUIMessageStream,
  type UIMessageChunk,
} from "ai";
import { readJson } from "@/lib/read-json.ts";
import { chooseModel, silenceMs } from "@/lib/settings.ts";
import { watchSilence } from "@/lib/silence.ts";
import { iterate, pullFrom } from "@/streaming/streams/readable.ts";

/** The text for the user: never the provider's, which `onError` would get. */
const FAILED = { type: "error", errorText: "The answer failed." } as const;

export const maxDuration = 300;

export async function POST(request: Request): Promise<Response> {
  const body = (await readJson(request, 256 * 1024)) as { model?: unknown; messages?: unknown } | null | undefined;
  const model = chooseModel(body?.model);
  const checked = await safeValidateUIMessages({ messages: body?.messages });
  if (model === undefined || !checked.success) return new Response("invalid", { status: 400 });
  const messages = await convertToModelMessages(checked.data);

  const silence = watchSilence(silenceMs());
  const parts = pullFrom<UIMessageChunk>(async function* (signal) {
    const { stream } = streamText({
      model: createOpenAI().chat(model),
      messages,
      // Without this signal, the model continues after the client has left.
      abortSignal: AbortSignal.any([signal, request.signal, silence.signal]),
      maxRetries: 0,
    });
    try {
      silence.listen();
      for await (const part of iterate(toUIMessageStream({ stream, onError: () => FAILED.errorText }))) {
        silence.pause();
        // Answers that were cut, by the provider or by us: `useChat` would show them as complete.
        const cut = part.type === "abort" || (part.type === "finish" && part.finishReason === "interrupted");
        yield cut ? FAILED : part;
        silence.listen();
      }
    } catch {
      yield FAILED; // a broken connection rejects the stream, and would end the response without an error
    } finally {
      silence.pause();
    }
  });
  return createUIMessageStreamResponse({
    stream: parts,
    headers: { "cache-control": "no-store, no-transform" },
    keepAliveMs: 15_000, // and a comment immediately, with which Next sends the response headers
  });
}
// ANCHOR_END: route
