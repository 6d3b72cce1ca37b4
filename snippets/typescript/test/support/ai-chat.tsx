// The AI SDK's own hook, on a page of its own.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useEffect } from "react";
import { createRoot } from "react-dom/client";

export interface AiSeen {
  text: string;
  status: string;
  error: string;
  finished: string;
}

const seen: AiSeen = { text: "", status: "", error: "", finished: "" };

function AiChat({ api }: { api: string }): React.ReactNode {
  const { messages, sendMessage, status, error, stop } = useChat({
    transport: new DefaultChatTransport({ api }),
    onFinish: ({ finishReason, isAbort, isDisconnect, isError }) => {
      seen.finished = JSON.stringify({ finishReason, isAbort, isDisconnect, isError });
    },
  });
  useEffect(() => {
    const answer = messages.findLast(({ role }) => role === "assistant");
    seen.text = answer?.parts.map((part) => (part.type === "text" ? part.text : "")).join("") ?? "";
    Object.assign(seen, { status, error: error?.message ?? "" });
  });
  return (
    <main>
      <button id="send" onClick={() => void sendMessage({ text: "Hello" })}>
        Send
      </button>
      <button id="stop" onClick={() => void stop()}>
        Stop
      </button>
    </main>
  );
}

export function mountAiChat(api: string): AiSeen {
  createRoot(document.body).render(<AiChat api={api} />);
  return seen;
}
