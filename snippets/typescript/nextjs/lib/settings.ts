// ANCHOR: settings
import { CHAT_DATA, type Failed } from "@/streaming/llm/chat-events.ts";

/** The contract and the bounds of the chat route. Names and data of the events: `streaming/llm/chat-events.ts`. */
export const SETTINGS = {
  /** Roles that a client may send; any other is refused. With `system`, it would speak with your authority. */
  roles: ["user", "assistant"],
  /** Bytes of a request, and messages in it. More is refused. */
  maxBody: 64 * 1024,
  maxMessages: 100,
  /** A refusal of the provider within this time is a status. Longer, and readers wait for the head of each slow answer. */
  headMs: 500,
  /** Heartbeat: an event, which EventSource shows to the page; `null` for a comment. */
  ping: "ping" as string | null,
  pingEveryMs: 15_000,
  /** How long a model may be silent; models that think send nothing for minutes. No limit on the complete answer. */
  silenceMs: 300_000,
  /** How long a reader may take nothing: then the model is stopped. */
  unreadMs: 60_000,
  /** Models that a client may ask for; the first is the default. */
  models: ["gpt-5"],
  /** Status of a request that is not valid; of a refused answer by its code; of any other code. */
  invalid: 400,
  statuses: { rate_limited: 429, overloaded: 503, rejected: 422, model_silent: 504 } as Record<string, number>,
  otherStatus: 502,
  /** Seconds of `Retry-After`, if the provider sends none. */
  retryAfter: 10,
  /** Body of each refusal. Its codes: `invalid`, and those of `lib/answer.ts`. */
  refusal: (failed: Failed): unknown => CHAT_DATA.failed.write(failed),
};

/** The model that the client asked for, if it may have it; the first one when it asked for none. */
export function chooseModel(wanted: unknown): string | undefined {
  const allowed = models();
  return wanted === undefined ? allowed[0] : allowed.find((model) => model === wanted);
}

// At each request: what a module reads when it is loaded may be what `next build` had.
const models = (): string[] => process.env["MODELS"]?.split(",") ?? SETTINGS.models;

export const silenceMs = (): number => positive("MODEL_SILENCE_MS", SETTINGS.silenceMs);

export const unreadMs = (): number => positive("UNREAD_MS", SETTINGS.unreadMs);

/** Called at the start, so that a wrong value ends the server with its name, not each answer. */
export function checkEnvironment(): void {
  silenceMs();
  unreadMs();
  if (models().some((model) => model.trim() === ""))
    throw new Error("MODELS: write names with commas between, such as gpt-5,gpt-5-mini");
}

function positive(name: string, otherwise: number): number {
  const value = process.env[name];
  const number = value === undefined ? otherwise : Number(value);
  // setTimeout treats NaN, and what is above 2^31 - 1, as 1 ms.
  if (!(number > 0 && number < 2 ** 31))
    throw new Error(`${name}: ${JSON.stringify(value)} is not a time in milliseconds`);
  return number;
}
// ANCHOR_END: settings
