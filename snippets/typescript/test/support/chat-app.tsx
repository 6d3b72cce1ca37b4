// The pages of the React tests.
import { StrictMode, useEffect } from "react";
import { createRoot, type Root } from "react-dom/client";
import { useTokenStream } from "../../src/llm/use-token-stream.tsx";

export interface Seen {
  renders: number;
  text: string;
  status: string;
  reason: string;
  code: string;
}

const seen: Seen = { renders: 0, text: "", status: "", reason: "", code: "" };

function Chat(): React.ReactNode {
  const { text, status, done, error, send, stop } = useTokenStream("/chat");
  useEffect(() => {
    seen.renders += 1;
    Object.assign(seen, {
      text,
      status,
      reason: done?.reason ?? "",
      code: error !== undefined && "code" in error ? error.code : "",
    });
  });
  return (
    <main>
      <button id="send" onClick={() => send({ messages: [] })}>
        Send
      </button>
      <button id="stop" onClick={stop}>
        Stop
      </button>
      <output>{text}</output>
    </main>
  );
}

/** As people write it: the answer is asked for by an effect. */
function OnMount(): React.ReactNode {
  const { text, send } = useTokenStream("/chat");
  useEffect(() => send({ messages: [] }), [send]);
  return <output>{text}</output>;
}

let root: Root | undefined;

export function mountChat(page: "Chat" | "OnMount"): Seen {
  root = createRoot(document.body);
  root.render(<StrictMode>{page === "Chat" ? <Chat /> : <OnMount />}</StrictMode>);
  return seen;
}

export function unmountChat(): void {
  root?.unmount();
}
