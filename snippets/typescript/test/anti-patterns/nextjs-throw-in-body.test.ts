// Wrong: a route handler of Next.js whose body rejects when the provider fails
// Harm: the client gets a 200 that is cut; the reason is in the server's log only
// Instead: llm/nextjs
// Probe: fails sse-ends-cleanly
import { expect, test } from "vitest";
import { postChat, readChat } from "../../src/llm/read-chat.ts";
import { logText, origin } from "../support/nextjs.ts";

test("the client cannot tell it from a broken network", async () => {
  const response = await fetch(`${origin()}/wrong/throws`);
  expect(response.status).toBe(200);
  await expect(response.text()).rejects.toThrow("terminated");
  expect(logText()).toContain("failed to pipe response");
  expect(logText()).toContain("sk-secret is over its limit");

  const body = { model: "scripted/error", messages: [{ role: "user", content: "Hello" }] };
  const reading = readChat(postChat(`${origin()}/api/chat`, body, new AbortController().signal), () => undefined);
  await expect(reading).rejects.toMatchObject({ code: "model_failed", retryable: true });
});
