// llm/chat: a conversation with a model, outside of any framework: history, ids, Stop, retry, regenerate.
//
// Use it for a chat page; `llm/use-chat-log.tsx` shows it in React. Needs `llm/answer.ts`, `llm/answer-source.ts`, `llm/read-chat.ts`.
// Guarantee: ids are stable over frames and renders; each message is replaced, never changed, so a view compares references; what a
// model refused, and what was cut by an error, is not sent to the model again.

import { Answer, type AnswerState } from "./answer.ts";
import type { AnswerSource } from "./answer-source.ts";

export interface ChatMessage {
  readonly id: string;
  readonly role: "user" | "assistant";
  readonly text: string;
  /** Of the assistant. */
  readonly answer?: AnswerState;
}

export interface Turn {
  role: "user" | "assistant";
  content: string;
}

// ANCHOR: options
export interface ChatOptions {
  /** The conversation so far, from your server. */
  messages?: readonly ChatMessage[];
  /** The body of the request; by default `{ messages }`. */
  toBody?: (turns: Turn[]) => unknown;
  /**
   * Beyond these limits the oldest turns are left out, because a server refuses a larger request: 100, and 60,000
   * characters.
   */
  maxTurns?: number;
  maxCharacters?: number;
  /** After each answer, complete or not: store it here if the server does not. */
  onEnd?: (messages: readonly ChatMessage[]) => void;
}
// ANCHOR_END: options

export class Chat {
  readonly #answer: Answer;
  readonly #options: ChatOptions;
  #messages: readonly ChatMessage[];
  readonly #listeners = new Set<() => void>();

  constructor(source: AnswerSource, options: ChatOptions = {}) {
    this.#answer = new Answer(source);
    this.#options = options;
    this.#messages = options.messages ?? [];
    this.#answer.subscribe(() => this.#show(this.#answer.getState()));
  }

  readonly getMessages = (): readonly ChatMessage[] => this.#messages;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  };

  get streaming(): boolean {
    return this.#answer.getState().status === "streaming";
  }

  // ANCHOR: send
  /** Asks a question; a running answer is stopped first. */
  send(text: string): void {
    this.#answer.stop();
    this.#ask([...this.#messages, { id: newId(), role: "user", text }]);
  }

  /** Asks the last question again, after a failure or for another answer. The last answer is replaced. */
  regenerate(): void {
    this.#answer.stop();
    const last = this.#messages.findLastIndex(({ role }) => role === "user");
    if (last !== -1) this.#ask(this.#messages.slice(0, last + 1));
  }
  // ANCHOR_END: send

  stop(): void {
    this.#answer.stop();
  }

  /** See `Answer.enter`. */
  readonly enter = (): (() => void) => this.#answer.enter();

  #ask(messages: readonly ChatMessage[]): void {
    this.#messages = messages;
    const { toBody = (turns: Turn[]) => ({ messages: turns }), maxTurns = 100, maxCharacters = 60_000 } = this.#options;
    this.#answer.ask(toBody(newest(history(messages), maxTurns, maxCharacters)));
  }

  #show(answer: AnswerState): void {
    const last = this.#messages.at(-1);
    const continues = last?.role === "assistant";
    const message: ChatMessage = { id: continues ? last.id : newId(), role: "assistant", text: answer.text, answer };
    this.#messages = [...(continues ? this.#messages.slice(0, -1) : this.#messages), message];
    for (const listener of this.#listeners) listener();
    if (answer.status !== "streaming") this.#options.onEnd?.(this.#messages);
  }
}

let made = 0;
const newId = (): string => `m${Date.now().toString(36)}-${(made += 1)}`;

// ANCHOR: history
/** The turns to send. See the table "What to store, what to resend" in the chapter. */
export function history(messages: readonly ChatMessage[]): Turn[] {
  const turns: Turn[] = [];
  for (const { role, text, answer } of messages) {
    const reason = answer?.done?.reason;
    if (reason === "refusal" || reason === "content_filter") {
      turns.pop(); // and its question: a model that sees a refused turn again refuses every later one
    } else if (role === "user" && turns.at(-1)?.role === "user") {
      turns[turns.length - 1]!.content += `\n\n${text}`; // the answer between them failed; providers require alternating roles
    } else if (answer?.status !== "failed" && text !== "") {
      turns.push({ role, content: text });
    }
  }
  return turns;
}
// ANCHOR_END: history

/** The newest turns that fit, starting with a question. The last question is always sent. */
function newest(turns: Turn[], maxTurns: number, maxCharacters: number): Turn[] {
  let from = turns.length - 1;
  let characters = turns[from]?.content.length ?? 0;
  while (from > 0 && turns.length - from < maxTurns) {
    characters += turns[from - 1]!.content.length;
    if (characters > maxCharacters) break;
    from -= 1;
  }
  while (turns[from]?.role === "assistant") from += 1;
  return turns.slice(Math.max(from, 0));
}
