// llm/chat-events: names and shapes of a streamed answer, in one table for the server that writes it and the page that reads it.
//
// Use it on both ends of a chat stream. If your contract has other names, change them here: `read-chat.ts` and the
// Next.js route take them from this table, and the Rust relay has the same table in its `Names`.
// Guarantee: none is `error` or `open`, which EventSource fires on its own.

// ANCHOR: table
export interface ChatEventNames {
  text: string;
  reasoning: string;
  refusal: string;
  done: string;
  failed: string;
}

export const CHAT_EVENTS: ChatEventNames = {
  /** `{"text"}` to append to the answer. */
  text: "text",
  /** `{"text"}` to append to the reasoning. */
  reasoning: "reasoning",
  /** `{"text"}` that the model says in place of an answer. */
  refusal: "refusal",
  /** Terminal event: `Done`. */
  done: "done",
  /** Terminal event: `Failed`. */
  failed: "failed",
};

export type Kind = "text" | "reasoning" | "refusal";

/** The model is done. Only `stop` and `tool_calls` mean that it had nothing more to say. */
export interface Done {
  reason: "stop" | "tool_calls" | "max_tokens" | "content_filter" | "refusal" | "paused" | "other";
  tools: string[];
  usage: { input: number | null; output: number | null };
}

/** The answer is not complete. The same fields are the JSON body of a refusal with a status. */
export interface Failed {
  /** Stable, to choose words by: `truncated`, `rate_limited`, `stopped`, … */
  code: string;
  retryable: boolean;
  /** In seconds. */
  retry_after?: number | undefined;
}
// ANCHOR_END: table
