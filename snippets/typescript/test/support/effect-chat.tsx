// A generation that an effect starts and nothing stops, as people write it.
import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { eventStream } from "../../src/sse/event-stream.ts";

function Effect(): React.ReactNode {
  const [text, setText] = useState("");
  useEffect(() => {
    void (async () => {
      const response = await fetch("/chat", { method: "POST", body: "{}" });
      const reader = response.body!.pipeThrough(eventStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const { text } = JSON.parse(part.value.data) as { text: string };
        setText((before) => before + text);
      }
    })();
  }, []);
  return <output>{text}</output>;
}

export function mountEffect(): void {
  createRoot(document.body).render(
    <StrictMode>
      <Effect />
    </StrictMode>,
  );
}
