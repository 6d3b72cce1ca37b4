// A chat through the relay. Each button asks the scripted model for one fault; Stop aborts the
// request, and what the provider saw of it is read back.

import { readEvents } from "./llm-events.js";
import { onLeave, panel } from "./panel.js";

/** The faults of the scripted model. */
const FAULTS = [
  "bytes",
  "tools",
  "length",
  "refusal",
  "cut",
  "cut-inside",
  "abort",
  "stall",
  "hold-head",
  "error",
  "rate-limit",
  "overloaded",
];

export default function mount(element, base) {
  const p = panel(element, "A chat through the relay");
  let running;

  const question = p.field("Question", { type: "text", value: "What ends a stream?", size: 32 });
  const answer = document.createElement("p");
  answer.setAttribute("aria-live", "polite");
  answer.style.minHeight = "5em";
  p.controls.after(answer);

  async function ask(script) {
    running?.abort();
    const own = (running = new AbortController());
    p.status("waiting", `asking: ${script}`);
    answer.replaceChildren();
    const text = answer.appendChild(document.createTextNode(""));
    const began = performance.now();
    const since = () => `${Math.round(performance.now() - began)} ms`;
    let first = true;
    let ended = false;
    try {
      const response = await fetch(`${base}/${script}/chat`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ messages: [{ role: "user", content: question.value }] }),
        signal: own.signal,
      });
      p.log("head", { text: `status ${response.status} after ${since()}` });
      if (response.status === 404) {
        p.note("no provider: set OPENAI_API_KEY or ANTHROPIC_API_KEY and start with `cargo run --features tls`");
        return p.status("idle", "no key");
      }
      if (!response.ok) {
        const wait = response.headers.get("retry-after");
        p.log("refused", { text: `${await response.text()}${wait ? `, Retry-After: ${wait}` : ""}`, kind: "failed" });
        return p.status("failed", `status ${response.status}`);
      }
      p.status("open", "answering");
      for await (const { name, data } of readEvents(response.body)) {
        if (name === "text") {
          if (first) p.log("first token", { text: `after ${since()}` });
          first = false;
          text.appendData(JSON.parse(data).text); // text, never HTML
        } else if (name === "ping") {
          p.note(`heartbeat after ${since()}`);
        } else {
          ended = name === "done" || name === "failed";
          p.log(name, { text: `${data} after ${since()}`, kind: name === "done" ? "good" : "failed" });
          if (ended) p.status(name === "done" ? "done" : "failed", name);
        }
      }
      if (!ended) p.status("failed", "cut: no terminal event");
    } catch (error) {
      if (own.signal.aborted) p.status("idle", "stopped");
      else p.status("failed", `connection lost: ${error.message}`);
    }
    if (running === own) running = undefined;
  }

  p.button("Ask", () => void ask("plain"));
  p.button("Stop", async () => {
    if (!running) return p.note("nothing to stop");
    running.abort();
    // The provider's side of it: give its connection a moment to be closed, then look.
    await new Promise((resolve) => setTimeout(resolve, 200));
    const [last] = await (await fetch(`${base}/exchanges`)).json();
    if (last)
      p.note(`the provider saw: ${last.tokens} tokens sent, ${last.end ?? "still open"} after ${last.ms ?? "?"} ms`);
  });
  for (const fault of FAULTS) p.button(fault, () => void ask(fault));
  p.button("Ask the provider", () => void ask("provider"));
  onLeave(() => running?.abort());
}
