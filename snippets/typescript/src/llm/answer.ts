// llm/answer: the state of one streamed answer, outside of any framework.
//
// Use it under `llm/use-token-stream.tsx` and `llm/chat.ts`, or with another framework's store. Needs `llm/answer-source.ts`,
// `llm/read-chat.ts`.
// Guarantee: listeners run once per frame, not once per token, also while the page is hidden; a partial answer never has the
// status `done`; of two answers at once the later one wins; no status stays `streaming` after the reading has ended.

import type { AnswerSource } from "./answer-source.ts";
import { type ChatError, type Done, readChat } from "./read-chat.ts";

// ANCHOR: state
export interface AnswerState {
  text: string;
  reasoning: string;
  /** `stopped` and `failed` come with the text so far: show it as cut. */
  status: "idle" | "streaming" | "done" | "stopped" | "failed";
  /** Set with `done`. Read its `reason`: an answer with `max_tokens` is cut too. */
  done?: Done;
  /** Set with `failed`. */
  error?: ChatError | Error;
}
// ANCHOR_END: state

const STOPPED = new DOMException("stopped", "AbortError");
const DETACHED = new DOMException("detached", "AbortError");

export class Answer {
  readonly source: AnswerSource;
  #state: AnswerState = { text: "", reasoning: "", status: "idle" };
  #running: AbortController | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(source: AnswerSource) {
    this.source = source;
  }

  readonly getState = (): AnswerState => this.#state;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  // ANCHOR: methods
  /** Call it from an event (submit, click), never from an effect: StrictMode and every remount run effects again. */
  ask(body: unknown): void {
    this.stop();
    this.#set({ text: "", reasoning: "", status: "streaming" });
    this.#read((signal) => this.source.ask(body, signal));
  }

  /** Stops the answer: ends the reading, and sends a Stop if the source needs one. */
  stop(): void {
    if (this.#running === undefined) return;
    this.source.stop?.();
    this.#end(STOPPED);
  }

  /**
   * Call it when the page or component appears, and call the result when it disappears. With a source that can
   * `attach`, the answer then continues and can be read again; with a relay, it is stopped.
   */
  enter(): () => void {
    if (this.source.attach !== undefined && this.#running === undefined)
      this.#read((signal) => this.source.attach?.(signal));
    return () => this.#end(this.source.attach === undefined ? STOPPED : DETACHED);
  }
  // ANCHOR_END: methods

  #end(reason: DOMException): void {
    this.#running?.abort(reason);
    this.#running = undefined;
    if (reason === STOPPED && this.#state.status === "streaming") this.#set({ ...this.#state, status: "stopped" });
  }

  #read(open: (signal: AbortSignal) => ReturnType<AnswerSource["ask"]> | undefined): void {
    const abort = new AbortController();
    const events = open(abort.signal);
    if (events === undefined) return;
    this.#running = abort;
    const parts = { text: "", reasoning: "" };
    let frame: (() => void) | undefined;
    const show = (rest: Pick<AnswerState, "status" | "done" | "error">): void => {
      frame?.();
      frame = undefined;
      if (this.#running !== abort) return; // a later answer, Stop, or a page that has gone
      if (rest.status !== "streaming") this.#running = undefined;
      this.#set({ ...parts, ...rest });
    };
    void readChat(events, (kind, text) => {
      parts[kind === "reasoning" ? "reasoning" : "text"] += text;
      frame ??= nextFrame(() => show({ status: "streaming" }));
    }).then(
      (done) => show({ status: "done", done }),
      (error: ChatError | Error) => {
        const code = "code" in error ? error.code : "";
        // A key of an earlier visit whose answer the server no longer has: nothing of this page is lost.
        if (code === "forgotten" && this.#running === abort && this.#state.status !== "streaming")
          this.#running = undefined;
        else show(code === "stopped" ? { status: "stopped" } : { status: "failed", error });
      },
    );
  }

  #set(state: AnswerState): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }
}

/** Browsers give a hidden page no frames, even if it is hidden after asking for one: then the timer shows the text. Returns how to cancel it. */
function nextFrame(run: () => void): () => void {
  const hasFrames = typeof requestAnimationFrame === "function"; // Node has none
  const cancel = (): void => {
    clearTimeout(timer);
    if (hasFrames) cancelAnimationFrame(frame);
  };
  const once = (): void => {
    cancel();
    run();
  };
  const timer = setTimeout(once, hasFrames ? 250 : 16);
  const frame = hasFrames ? requestAnimationFrame(once) : 0;
  return cancel;
}
