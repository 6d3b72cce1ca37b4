"use client";

import { type FormEvent, useState } from "react";
import { relaySource } from "@/streaming/llm/answer-source.ts";
import { Chat, type ChatMessage } from "@/streaming/llm/chat.ts";
import { ChatLog, useChat } from "@/streaming/llm/use-chat-log.tsx";

// Outside of the component: a render must not lose the conversation. On the server it stays empty, since only events send.
const chat = new Chat(relaySource("/api/chat"));

export default function Page(): React.ReactNode {
  const messages = useChat(chat);
  const [question, setQuestion] = useState("");
  const streaming = messages.at(-1)?.answer?.status === "streaming";
  const send = (event: FormEvent): void => {
    event.preventDefault();
    if (question.trim() === "") return;
    chat.send(question);
    setQuestion("");
  };
  return (
    <main
      style={{ display: "flex", flexDirection: "column", gap: 8, height: "95vh", maxWidth: "44rem", margin: "0 auto" }}
    >
      <h1>Chat</h1>
      <ChatLog messages={messages} show={show} />
      <form onSubmit={send} style={{ display: "flex", gap: 8 }}>
        <input
          style={{ flex: 1 }}
          aria-label="Question"
          value={question}
          onChange={({ target }) => setQuestion(target.value)}
        />
        <button type="submit">Send</button>
        <button type="button" disabled={!streaming} onClick={() => chat.stop()}>
          Stop
        </button>
        <button type="button" disabled={streaming || messages.length === 0} onClick={() => chat.regenerate()}>
          Again
        </button>
      </form>
    </main>
  );
}

/** Text, not HTML: what a model writes is another user's input. For Markdown: `llm/render-markdown`. */
function show({ role, text, answer }: ChatMessage): React.ReactNode {
  const code = answer?.error !== undefined && "code" in answer.error ? `: ${answer.error.code}` : "";
  const cut = answer?.status === "failed" || answer?.status === "stopped" || answer?.done?.reason === "max_tokens";
  return (
    <p style={{ whiteSpace: "pre-wrap", overflowWrap: "anywhere" }}>
      {role === "user" ? <strong>{text}</strong> : text}
      {cut && <em> (incomplete{code})</em>}
    </p>
  );
}
