// State for each token, as people write it.
import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

const count = { renders: 0 };

function Naive({ tokens }: { tokens: number }): React.ReactNode {
  const [text, setText] = useState("");
  useEffect(() => {
    count.renders += 1;
  });
  useEffect(() => {
    let stopped = false;
    void (async () => {
      for (let at = 0; at < tokens && !stopped; at++) {
        setText((before) => before + "x");
        // A token is a task of its own, as those of a socket are.
        await new Promise<void>((resolve) => {
          const { port1, port2 } = new MessageChannel();
          port1.onmessage = () => (port1.close(), resolve());
          port2.postMessage(0);
        });
      }
    })();
    return () => void (stopped = true);
  }, [tokens]);
  return <output>{text}</output>;
}

export function mountNaive(tokens: number): { renders: number } {
  createRoot(document.body).render(<Naive tokens={tokens} />);
  return count;
}
