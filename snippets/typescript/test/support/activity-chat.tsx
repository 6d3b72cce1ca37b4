// A page that React hides and shows again, with its state kept.
import { Activity, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import type { AnswerSource } from "../../src/llm/answer-source.ts";
import { useTokenStream } from "../../src/llm/use-token-stream.tsx";

export function Chat({ source }: { source: string | AnswerSource }): React.ReactNode {
  const { text, status, send, stop } = useTokenStream(source);
  return (
    <main>
      <button id="send" onClick={() => send({ messages: [{ role: "user", content: "Hello" }] })}>
        Send
      </button>
      <button id="stop" onClick={stop}>
        Stop
      </button>
      <p id="status">{status}</p>
      <output>{text}</output>
    </main>
  );
}

/** The same after its file was saved. */
export function EditedChat(props: { source: string | AnswerSource }): React.ReactNode {
  return <section>{Chat(props)}</section>;
}

function App({ source }: { source: string | AnswerSource }): React.ReactNode {
  const [visible, setVisible] = useState(true);
  return (
    <>
      <button id="navigate" onClick={() => setVisible((before) => !before)}>
        Navigate
      </button>
      <Activity mode={visible ? "visible" : "hidden"}>
        <Chat source={source} />
      </Activity>
    </>
  );
}

export function mountActivity(source: string | AnswerSource = "/chat", Mode: typeof StrictMode = StrictMode): void {
  createRoot(document.body.appendChild(document.createElement("div"))).render(
    <Mode>
      <App source={source} />
    </Mode>,
  );
}

export { Fragment } from "react";
