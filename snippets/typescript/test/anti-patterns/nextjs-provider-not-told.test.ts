// Wrong: an LLM route of Next.js that gives `request.signal` neither to the `openai` package nor, as `abortSignal`, to streamText
// Harm: the user has left, and the model continues: its tokens are paid for and nobody reads them
// Instead: llm/nextjs
// Probe: fails llm-abort-stops-work, llm-slow-reader-bounded
import { expect, test } from "vitest";
import { exchanges, origin } from "../support/nextjs.ts";
import { eventually } from "../support/server.ts";

const chat = (text: string): object => ({ model: "scripted/stall", messages: [{ role: "user", content: text }] });
const ui = (text: string): object => ({
  model: "scripted/stall",
  messages: [{ id: "1", role: "user", parts: [{ type: "text", text }] }],
});

test("the model's connection stays open", async () => {
  const open = async (text: string): Promise<boolean> => (await exchanges(text)).some(({ end }) => end === "None");
  for (const [wrong, right, body] of [
    ["/wrong/no-signal", "/api/chat", chat],
    ["/wrong/ai-no-signal", "/api/ai", ui],
  ] as const) {
    for (const path of [wrong, right]) {
      const abort = new AbortController();
      const response = await fetch(origin() + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body(`told ${path}`)),
        signal: abort.signal,
      });
      await response.body!.getReader().read();
      await eventually(() => open(`told ${path}`));
      abort.abort();
    }
    // The right one was left later, and is closed; the wrong one is still open.
    await eventually(async () => !(await open(`told ${right}`)));
    expect(await open(`told ${wrong}`)).toBe(true);
  }
});
