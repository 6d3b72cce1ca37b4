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
        // Models are slower than React: the next token comes when this one has been rendered.
        const before = count.renders;
        while (count.renders === before) await new Promise((resolve) => setTimeout(resolve, 0));
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
