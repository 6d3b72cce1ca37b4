// Wrong: an AI SDK route that returns the stream of streamText unchanged
// Harm: an answer that the provider has cut ends with `finish` and `interrupted`, which useChat shows as `ready`; a reset ends the response without `error`
// Instead: llm/nextjs
// Probe: fails llm-no-buffering-headers, llm-truncation-visible, llm-abort-stops-work
import { Chat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { expect, test } from "vitest";
import { origin } from "../support/nextjs.ts";

async function ask(path: string, script: string): Promise<[status: string, error: string | undefined]> {
  const chat = new Chat({
    transport: new DefaultChatTransport({ api: origin() + path, body: { model: `scripted/${script}` } }),
  });
  await chat.sendMessage({ text: "Hello" });
  return [chat.status, chat.error?.message];
}

test("half an answer has the status of a whole one", async () => {
  expect(await ask("/wrong/ai-no-signal", "cut")).toEqual(["ready", undefined]);
  expect(await ask("/wrong/ai-no-signal", "abort")).toEqual(["error", "terminated"]);
  for (const script of ["cut", "abort"]) expect(await ask("/api/ai", script)).toEqual(["error", "The answer failed."]);
});
