// Wrong: a generation that starts in useEffect and is not aborted in the cleanup
// Harm: StrictMode runs the effect twice, every remount once more: two answers are generated and paid for, and their tokens are mixed into one text
// Instead: llm/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { eventually, gone, serve, sse } from "../support/server.ts";

declare const pattern: typeof import("../support/chat-app.tsx") & { mountEffect(): void };

test("two generations run and write into one text", async () => {
  const closed: number[] = [];
  const server = await serve({
    "/chat": (_, response, nth) => {
      sse(response, `event: text\ndata: {"text":"<answer ${nth}>"}\n\n`);
      void gone(response).then(() => closed.push(nth));
    },
  });
  const wrong = await openPage(server.origin);
  await load(wrong, "test/support/effect-chat.tsx");
  await wrong.evaluate(() => pattern.mountEffect());
  await eventually(async () => {
    const text = (await wrong.textContent("body"))!;
    return text.includes("<answer 1>") && text.includes("<answer 2>");
  });
  expect(closed).toEqual([]);

  // From an event, one; and leaving the page's component ends it.
  const right = await openPage(server.origin);
  await load(right, "test/support/chat-app.tsx");
  await right.evaluate(() => void pattern.mountChat("Chat"));
  await right.click("#send");
  await eventually(async () => (await right.textContent("output")) === "<answer 3>");
  await right.evaluate(() => pattern.unmountChat());
  await eventually(() => closed.includes(3));
  expect(server.hits.get("/chat")).toBe(3);
});
