// ANCHOR: settings
/** As providers of OpenAI's format name them. */
export type Role = "user" | "assistant" | "system" | "developer";

/** The contract and the bounds of the chat route. Names and data of the events: `streaming/llm/chat-events.ts`. */
export const SETTINGS = {
  /** What the model is told before the conversation; "" for nothing. */
  instruction: "",
  /** Roles that a client may send, and the provider's names for them; others are refused. With `system`, a client has your authority. */
  roles: { user: "user", assistant: "assistant" } as Record<string, Role>,
  /** Bytes of a request, and messages in it. More is refused; the page leaves out its oldest turns (`llm/chat.ts`). */
  maxBody: 256 * 1024,
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
  /** Status of a refusal by its code, and of any other code. The body: `CHAT_DATA.refused`. */
  statuses: {
    invalid: 400,
    unknown_model: 400,
    role_refused: 422,
    rejected: 422,
    rate_limited: 429,
    overloaded: 503,
    model_silent: 504,
  } as Record<string, number>,
  otherStatus: 502,
  /** Seconds of `Retry-After`, if the provider sends none. */
  retryAfter: 10,
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
  const base = process.env["OPENAI_BASE_URL"];
  if (base && !/^https?:$/.test(URL.parse(base)?.protocol ?? ""))
    throw new Error(`OPENAI_BASE_URL: ${JSON.stringify(base)} is not a URL such as https://api.openai.com/v1`);
  if (!process.env["OPENAI_API_KEY"]) throw new Error("OPENAI_API_KEY: set the key of the provider");
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
