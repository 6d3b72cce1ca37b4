import { channel } from "node:diagnostics_channel";
import OpenAI from "openai";
import { type Role, SETTINGS, silenceMs } from "@/lib/settings.ts";
import { watchSilence } from "@/lib/silence.ts";
import { CHAT_DATA, CHAT_EVENTS, type Done, type Failed } from "@/streaming/llm/chat-events.ts";
import type { OutgoingEvent } from "@/streaming/sse/encode.ts";

const REASONS: Record<string, Done["reason"]> = {
  stop: "stop",
  length: "max_tokens",
  tool_calls: "tool_calls",
  content_filter: "content_filter",
};

/** Reasons of hosts that gave up: the answer is not complete. */
const GAVE_UP = ["error", "abort", "cancelled", "insufficient_system_resource"];

/** What hosts of OpenAI's format add. */
type Delta = OpenAI.ChatCompletionChunk.Choice.Delta & { reasoning?: string | null; reasoning_content?: string | null };

export interface Message {
  role: Role;
  content: string;
}

/** A part of an answer, in terms of this program. */
export type Part =
  | { kind: "text" | "reasoning" | "refusal"; text: string }
  | { kind: "done"; done: Done }
  | { kind: "failed"; failed: Failed };

/** The same in terms of the contract. */
export function toEvent(part: Part): OutgoingEvent {
  const type = CHAT_EVENTS[part.kind];
  if (part.kind === "done") return { type, data: CHAT_DATA.done.write(part.done) };
  if (part.kind === "failed") return { type, data: CHAT_DATA.failed.write(part.failed) };
  return { type, data: CHAT_DATA.text.write(part.text) };
}

// ANCHOR: answer
/**
 * One answer, with the events of the Rust relay: text, then exactly one of `done` and `failed`. Aborting `signal`
 * closes the provider's connection, and no event follows.
 */
export async function* answer(
  model: string,
  messages: Message[],
  signal: AbortSignal,
): AsyncGenerator<Part, void, void> {
  const asked = performance.now();
  const silence = watchSilence(silenceMs());
  const done: Done = { reason: "other", tools: [], usage: { input: null, output: null } };
  let finished = false;
  let refused = false;
  try {
    silence.listen();
    // OPENAI_API_KEY and OPENAI_BASE_URL are read here: at the top of a module they would be needed during the build.
    const stream = await new OpenAI({ maxRetries: 0 }).chat.completions.create(
      { model, messages, stream: true, stream_options: { include_usage: true } },
      { signal: AbortSignal.any([signal, silence.signal]) },
    );
    let first = true;
    for await (const { choices, usage } of stream) {
      silence.pause();
      if (usage) done.usage = { input: usage.prompt_tokens, output: usage.completion_tokens };
      const choice = choices[0]; // none in the chunk with the usage
      const delta: Delta | undefined = choice?.delta;
      for (const [kind, text] of [
        ["reasoning", delta?.reasoning_content ?? delta?.reasoning],
        ["text", delta?.content],
        ["refusal", delta?.refusal],
      ] as const) {
        if (!text) continue;
        refused ||= kind === "refusal";
        if (first) channel("llm:first-token").publish({ model, ms: performance.now() - asked });
        first = false;
        yield { kind, text };
      }
      for (const { function: call } of delta?.tool_calls ?? []) if (call?.name) done.tools.push(call.name);
      if (choice?.finish_reason) {
        if (GAVE_UP.includes(choice.finish_reason)) return yield failed("model_failed", true);
        finished = true;
        done.reason = REASONS[choice.finish_reason] ?? "other";
        if (refused && done.reason === "stop") done.reason = "refusal";
      }
      silence.listen();
    }
    // The loop ends normally after an abort, and after a connection that was cut between two events.
    if (signal.aborted) return;
    if (finished) yield { kind: "done", done };
    else yield silence.signal.aborted ? failed("model_silent", true) : failed("truncated", true);
  } catch (error) {
    if (signal.aborted) return;
    // A complete answer stays complete if the connection fails after the finish reason; only the usage may be missing.
    if (finished) yield { kind: "done", done };
    else {
      console.error("the model failed", error); // the provider's text stays here
      yield silence.signal.aborted ? failed("model_silent", true) : publicError(error);
    }
  } finally {
    silence.pause();
  }
}
// ANCHOR_END: answer

function publicError(error: unknown): Part {
  // What the package throws for a connection that was cut inside an event.
  if (error instanceof SyntaxError) return failed("truncated", true);
  const { status, headers, code } = error instanceof OpenAI.APIError ? error : {};
  const wait = retryAfter(headers) ?? SETTINGS.retryAfter;
  // Our key, our model, our account: no retry of a user helps.
  if (code === "insufficient_quota" || [401, 402, 403, 404].includes(status ?? 0))
    return failed("misconfigured", false);
  if (status === 429) return failed("rate_limited", true, wait);
  if (status === 503 || status === 529) return failed("overloaded", true, wait);
  if ([400, 413, 422].includes(status ?? 0)) return failed("rejected", false);
  return failed("model_failed", true);
}

/** Seconds, at most an hour: `retry-after-ms` (OpenAI, Azure), else `Retry-After`, a number or a date (RFC 9110, section 10.2.3). */
function retryAfter(headers: Headers | undefined): number | undefined {
  const value = headers?.get("retry-after") ?? "";
  const ms = Number(headers?.get("retry-after-ms")) || Number(value) * 1_000 || Date.parse(value) - Date.now();
  return ms > 0 ? Math.ceil(Math.min(ms, 3_600_000) / 1_000) : undefined;
}

function failed(code: string, retryable: boolean, retryAfter?: number): Part {
  return { kind: "failed", failed: { code, retryable, retry_after: retryAfter } };
}

/** A response that refuses with a status, before anything of an answer is sent. */
export function refusal(failed: Failed): Response {
  const headers: HeadersInit = failed.retry_after === undefined ? {} : { "retry-after": String(failed.retry_after) };
  const status = SETTINGS.statuses[failed.code] ?? SETTINGS.otherStatus;
  return Response.json(CHAT_DATA.refused.write(failed), { status, headers });
}
