"use client";

import { useTokenStream } from "@/streaming/llm/use-token-stream.tsx";

export default function Page(): React.ReactNode {
  const { text, status, error, send, stop } = useTokenStream("/api/chat");
  return (
    <main>
      <button id="send" onClick={() => send({ messages: [{ role: "user", content: "Hello" }] })}>
        Send
      </button>
      <button id="stop" onClick={stop}>
        Stop
      </button>
      <p id="status">{status}</p>
      <p id="error">{error !== undefined && "code" in error ? error.code : ""}</p>
      <output>{text}</output>
    </main>
  );
}
