// Wrong: code that reads the body without checking the status or the content type, and treats its end as the end of the answer
// Harm: a 429, a sign-in page and a truncated answer all look like a short success, and nothing is retried or reported
// Instead: llm/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { ChatError, postChat, readChat } from "../../src/llm/read-chat.ts";
import { eventStream } from "../../src/sse/event-stream.ts";
import { serve, sse } from "../support/server.ts";

async function wrong(url: string): Promise<string> {
  const response = await fetch(url, { method: "POST", body: "{}" });
  let text = "";
  for await (const { type, data } of response.body!.pipeThrough(eventStream())) {
    if (type === "done") break;
    text += (JSON.parse(data) as { text: string }).text;
  }
  return text;
}

test("a refusal, a foreign page and a cut answer are no success", async () => {
  const server = await serve({
    "/limited": (_, response) =>
      void response.writeHead(429, { "content-type": "application/json" }).end('{"code":"rate_limited"}'),
    "/page": (_, response) => void response.writeHead(200, { "content-type": "text/html" }).end("<h1>Sign in</h1>"),
    "/cut": (_, response) =>
      void sse(response, 'event: text\ndata: {"text":"The dose is 5"}\n\nevent: text\ndata: {"te').end(),
  });
  const outcomes = { "/limited": "", "/page": "", "/cut": "The dose is 5" };
  for (const [path, text] of Object.entries(outcomes)) {
    expect(await wrong(server.origin + path)).toBe(text);
    const right = readChat(postChat(server.origin + path, {}, new AbortController().signal), () => undefined);
    await expect(right).rejects.toThrow(ChatError);
  }
});
