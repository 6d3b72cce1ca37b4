// llm/chat-events: names and shapes of a streamed answer, in one table for the server that writes it and the page that reads it.
//
// Use it on both ends of a chat stream. If your contract has other names or fields, change them here and nowhere else:
// `read-chat.ts` and the Next.js route take them from `CHAT_EVENTS` and `CHAT_DATA`. The Rust relay has the names in its `Names`.
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
  /** `{"text"}` of a refusal, which replaces the answer. */
  refusal: "refusal",
  /** Terminal event: `Done`. */
  done: "done",
  /** Terminal event: `Failed`. */
  failed: "failed",
};

export type Kind = "text" | "reasoning" | "refusal";

/** The model has ended. Only `stop` and `tool_calls` mean a complete answer. */
export interface Done {
  reason: "stop" | "tool_calls" | "max_tokens" | "content_filter" | "refusal" | "paused" | "other";
  tools: string[];
  usage: { input: number | null; output: number | null };
}

/** The answer is not complete. */
export interface Failed {
  /** Stable, so that the page can choose its text by it: `truncated`, `rate_limited`, `stopped`, … */
  code: string;
  retryable: boolean;
  /** In seconds. */
  retry_after?: number | undefined;
}

/**
 * The `data` of each event in the form of your contract: `write` on the server, `read` of the parsed JSON on the page. Without a
 * `reason`, send `failed` for `max_tokens` and `content_filter`: a page would show such an answer as complete.
 */
export const CHAT_DATA = {
  text: {
    write: (text: string): unknown => ({ text }),
    read: (data: unknown): string => (data as { text: string }).text,
  },
  done: { write: (done: Done): unknown => done, read: (data: unknown): Done => data as Done },
  failed: { write: (failed: Failed): unknown => failed, read: (data: unknown): Failed => data as Failed },
  /** The body of a refusal with a status. */
  refused: { write: (failed: Failed): unknown => failed, read: (body: unknown): Partial<Failed> => body as Failed },
};
// ANCHOR_END: table
