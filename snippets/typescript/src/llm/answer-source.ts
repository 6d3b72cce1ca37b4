// llm/answer-source: where a page gets an answer from, and how it stops one.
//
// Use `relaySource` if a disconnect is a Stop (`llm/relay`), `generationsSource` if an answer outlives the page
// (`llm/resume`). Needs `llm/read-chat.ts`, `sse/connect.ts`.
// Guarantee: one question is asked once, however often its POST is sent; after a cut or a reload no text comes twice.

import { type ConnectOptions, connect, EventStreamError, mayPass } from "../sse/connect.ts";
import type { ServerSentEvent } from "../sse/event-stream.ts";
import { ChatError, postChat, refusal } from "./read-chat.ts";

type Events = AsyncIterable<ServerSentEvent>;

export interface AnswerSource {
  /** Asks; `signal` ends the reading. */
  ask(body: unknown, signal: AbortSignal): Events;
  /** The answer that this tab asked for before a reload or a remount, from its first event; undefined without one. */
  attach?(signal: AbortSignal): Events | undefined;
  /** Stops the model, if ending the reading does not. */
  stop?(): void;
}

/** `POST url`: leaving the page, or Stop, ends the answer. */
export const relaySource = (url: string | URL): AnswerSource => ({
  ask: (body, signal) => postChat(url, body, signal),
});

export interface GenerationsOptions extends Omit<ConnectOptions, "signal" | "request" | "idempotencyKey"> {
  /** Headers for each request, with a token that is still valid. */
  headers?: () => Record<string, string> | Promise<Record<string, string>>;
  /** The entry of `sessionStorage` with the key of the last answer: one per chat on a page. */
  storageKey?: string;
  storage?: Pick<Storage, "getItem" | "setItem">;
}

// ANCHOR: generations
/** `POST url` with a key per question, `GET url/KEY` after a reload, `DELETE url/KEY` to stop. */
export function generationsSource(url: string, options: GenerationsOptions = {}): AnswerSource {
  const { headers, storageKey = `answer:${url}`, storage, ...rest } = options;
  // Looked up only on use: a server that renders the page has no `sessionStorage`.
  const stored = (): Pick<Storage, "getItem" | "setItem"> => storage ?? sessionStorage;
  const one = (key: string): string => `${url}/${encodeURIComponent(key)}`;
  return {
    ask(body, signal) {
      const key = newKey();
      stored().setItem(storageKey, key);
      const request = async (): Promise<RequestInit> => ({
        method: "POST",
        headers: { ...(await headers?.()), "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      // After a cut the POST is sent again with the key and the cursor: the server joins it to the running generation.
      return resumed(url, { ...rest, signal, idempotencyKey: key, request });
    },
    attach(signal) {
      const key = stored().getItem(storageKey);
      if (key === null) return undefined;
      return resumed(one(key), { ...rest, signal, request: async () => ({ headers: { ...(await headers?.()) } }) });
    },
    stop() {
      const key = stored().getItem(storageKey);
      if (key === null) return;
      // `keepalive`: a Stop followed by leaving the page is still sent. The server remembers a Stop that overtakes its POST.
      const send = async (): Promise<Response> =>
        fetch(one(key), { method: "DELETE", headers: { ...(await headers?.()) }, keepalive: true });
      void send()
        .catch(() => send())
        .catch(() => undefined);
    },
  };
}
// ANCHOR_END: generations

/** Final answers of the server as the errors that `readChat` throws. */
async function* resumed(url: string, options: ConnectOptions): AsyncGenerator<ServerSentEvent, void, void> {
  let refused: ChatError | undefined;
  const again = async (status: number, response: Response): Promise<boolean> => {
    refused = await refusal(response);
    // Without a code it is a proxy's.
    if (refused.code !== `http_${status}`) return refused.retryable;
    return (options.mayPass ?? mayPass)(status, response);
  };
  try {
    for await (const event of connect(url, { ...options, mayPass: again })) {
      // The log no longer has what comes next: the text so far cannot be continued.
      if (event.type === "reset") throw new ChatError("reset", true);
      yield event;
    }
  } catch (error) {
    if (!(error instanceof EventStreamError)) throw error;
    if (error.status === 404) throw new ChatError("forgotten", false);
    throw refused ?? new ChatError(`http_${error.status}`, false);
  }
}

/** `crypto.randomUUID` exists in secure contexts only; a chat on `http://192.168…` has no other way. */
function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
