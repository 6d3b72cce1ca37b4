// llm/use-token-stream: a streamed answer as React state.
//
// Use it for a chat in React 18 or later. Goes with `llm/read-chat.ts`.
// Promise: one render for each frame, not for each token; Stop and unmounting close the connection; a partial
// answer never has the status `done`; of two answers at once the later one wins.

// ANCHOR: hook
import { useCallback, useEffect, useRef, useState } from "react";
import { type ChatError, type Done, postChat, readChat } from "./read-chat.ts";

export interface TokenStream {
  text: string;
  reasoning: string;
  /** `stopped` and `failed` come with the text so far: show it as cut. */
  status: "idle" | "streaming" | "done" | "stopped" | "failed";
  /** With `done`. Look at `reason`: `max_tokens` is a cut answer too. */
  done?: Done;
  /** With `failed`. */
  error?: ChatError | Error;
}

const IDLE: TokenStream = { text: "", reasoning: "", status: "idle" };

export function useTokenStream(url: string): TokenStream & { send: (body: unknown) => void; stop: () => void } {
  const [state, setState] = useState<TokenStream>(IDLE);
  const running = useRef<AbortController>(undefined);

  const stop = useCallback(() => running.current?.abort(new DOMException("stopped", "AbortError")), []);

  // Called by an event (submit, click), never by an effect: StrictMode and every remount run effects again.
  const send = useCallback(
    (body: unknown) => {
      stop();
      const abort = new AbortController();
      running.current = abort;
      const parts = { text: "", reasoning: "" };
      let frame: (() => void) | undefined;
      const show = (rest: Partial<TokenStream> = {}): void => {
        frame?.();
        frame = undefined;
        if (running.current === abort) setState({ ...parts, status: "streaming", ...rest });
      };
      show();
      void readChat(postChat(url, body, abort.signal), (kind, text) => {
        parts[kind === "reasoning" ? "reasoning" : "text"] += text;
        frame ??= nextFrame(() => {
          frame = undefined;
          show();
        });
      }).then(
        (done) => show({ status: "done", done }),
        (error: Error) => show(abort.signal.aborted ? { status: "stopped" } : { status: "failed", error }),
      );
    },
    [url, stop],
  );

  useEffect(
    () => () => {
      stop();
      running.current = undefined; // no state is set after unmounting
    },
    [stop],
  );

  return { ...state, send, stop };
}

/** A hidden page gets no frames: without the timer its answer would stand still. Returns how to cancel it. */
function nextFrame(run: () => void): () => void {
  if (document.hidden) {
    const timer = setTimeout(run, 250);
    return () => clearTimeout(timer);
  }
  const frame = requestAnimationFrame(run);
  return () => cancelAnimationFrame(frame);
}
// ANCHOR_END: hook
