// llm/use-chat-log: a conversation in React: messages, scrolling, and what a screen reader hears.
//
// Use it with `llm/chat.ts`. Needs `llm/stick-to-bottom.ts`, `llm/chat.ts` and its files.
// Guarantee: a message that has not changed is not rendered again; a screen reader hears each answer once, when it has ended,
// not each token; the reader's place is kept while they read above.

// ANCHOR: log
import { memo, type ReactNode, useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { Chat, ChatMessage } from "./chat.ts";
import { type Sticky, stickToBottom } from "./stick-to-bottom.ts";

/** `chat` is made once, outside of the component. */
export function useChat(chat: Chat): readonly ChatMessage[] {
  useEffect(() => chat.enter(), [chat]);
  return useSyncExternalStore(chat.subscribe, chat.getMessages, chat.getMessages);
}

/** `show` renders one message: Markdown, its error, its buttons. */
export function ChatLog({
  messages,
  show,
}: {
  messages: readonly ChatMessage[];
  show: (message: ChatMessage) => ReactNode;
}): ReactNode {
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const sticky = useRef<Sticky>(null);
  const [atBottom, setAtBottom] = useState(true);
  useEffect(() => {
    const made = stickToBottom(scroller.current!, content.current!, () => setAtBottom(made.atBottom()));
    sticky.current = made;
    return () => made.disconnect();
  }, []);
  const last = messages.at(-1);
  return (
    <>
      {/* Focusable, so that the keyboard can scroll it. */}
      <div
        ref={scroller}
        tabIndex={0}
        role="region"
        aria-label="Conversation"
        style={{ overflowY: "auto", flex: "1 1 0", minHeight: 0 }}
      >
        <div ref={content}>
          {messages.map((message) => (
            <Message key={message.id} message={message} show={show} />
          ))}
        </div>
      </div>
      {/* Its text changes when an answer begins and ends: a live region around the tokens would read out each of them. */}
      <p
        role="status"
        style={{ position: "absolute", width: 1, height: 1, overflow: "hidden", clipPath: "inset(50%)" }}
      >
        {last === undefined ? "" : announcement(last)}
      </p>
      {!atBottom && (
        <button type="button" onClick={() => sticky.current?.toBottom()}>
          To the newest message
        </button>
      )}
    </>
  );
}

const Message = memo(function Message({
  message,
  show,
}: {
  message: ChatMessage;
  show: (message: ChatMessage) => ReactNode;
}) {
  return <article aria-busy={message.answer?.status === "streaming"}>{show(message)}</article>;
});

function announcement({ role, text, answer }: ChatMessage): string {
  if (role === "user") return "";
  switch (answer?.status) {
    case "streaming":
      return "The answer is being written.";
    case "stopped":
      return `Stopped. ${text}`;
    case "failed":
      return `The answer is incomplete. ${text}`;
    default:
      return text;
  }
}
// ANCHOR_END: log
