// llm/use-token-stream: one streamed answer as React state.
//
// Use it for one answer at a time in React 18 or later; `llm/use-chat-log.tsx` shows a conversation. Needs `llm/answer.ts`,
// `llm/answer-source.ts`, `llm/read-chat.ts`.
// Guarantee: one render per frame, not per token; Stop and unmounting end the reading; hidden by `<Activity>`, an
// answer of a relay is `stopped`, one of `generationsSource` is read on; after Fast Refresh none stays `streaming` without being read.

// ANCHOR: hook
import { useCallback, useEffect, useState, useSyncExternalStore } from "react";
import { Answer, type AnswerState } from "./answer.ts";
import { type AnswerSource, relaySource } from "./answer-source.ts";

export type TokenStream = AnswerState & { send: (body: unknown) => void; stop: () => void };

/** `source`: the URL of a relay, or an `AnswerSource` that is made once, outside of the component. */
export function useTokenStream(source: string | AnswerSource): TokenStream {
  const make = (): { source: string | AnswerSource; answer: Answer } => ({
    source,
    answer: new Answer(typeof source === "string" ? relaySource(source) : source),
  });
  const [made, setMade] = useState(make); // state, not useMemo: Fast Refresh keeps it
  if (made.source !== source) setMade(make());
  const { answer } = made;
  const state = useSyncExternalStore(answer.subscribe, answer.getState, answer.getState);
  // Unmounting, hiding and Fast Refresh run the cleanup; hiding and Fast Refresh keep the state, which must not stay
  // `streaming`.
  useEffect(() => answer.enter(), [answer]);
  const send = useCallback((body: unknown) => answer.ask(body), [answer]);
  const stop = useCallback(() => answer.stop(), [answer]);
  return { ...state, send, stop };
}
// ANCHOR_END: hook
