"use client";

import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useState } from "react";

export default function Page(): React.ReactNode {
  const [finished, setFinished] = useState("");
  const { messages, sendMessage, status, error, stop } = useChat({
    transport: new DefaultChatTransport({ api: "/api/ai" }),
    // A stream that ended too early has the status `ready` as well: only the missing reason tells.
    onFinish: ({ finishReason, isAbort, isError }) =>
      setFinished(isError ? "failed" : isAbort ? "stopped" : (finishReason ?? "cut")),
  });
  const send = (): void => {
    setFinished("");
    void sendMessage({ text: "Hello" });
  };
  const answer = messages.findLast(({ role }) => role === "assistant");
  return (
    <main>
      <button id="send" onClick={send}>
        Send
      </button>
      <button id="stop" onClick={() => void stop()}>
        Stop
      </button>
      <p id="status">{status}</p>
      <p id="finished">{finished}</p>
      <p id="error">{error?.message}</p>
      <output>{answer?.parts.map((part) => (part.type === "text" ? part.text : "")).join("")}</output>
    </main>
  );
}
