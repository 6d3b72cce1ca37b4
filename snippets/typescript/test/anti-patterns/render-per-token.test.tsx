// Wrong: React state that is set for each token, or innerHTML to which each token is appended
// Harm: one render for each token; innerHTML parses the whole answer again for each, so the time grows with the square of its length
// Instead: llm/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import type { Seen } from "../support/chat-app.tsx";
import { eventually, serve, sse } from "../support/server.ts";

declare const pattern: typeof import("../support/chat-app.tsx") & { mountNaive(tokens: number): { renders: number } };

test("a render for each token against one for each frame", async () => {
  const tokens = 300;
  const server = await serve({
    "/chat": (_, response) => {
      sse(response, 'event: text\ndata: {"text":"x"}\n\n'.repeat(tokens));
      response.write('event: done\ndata: {"reason":"stop","tools":[],"usage":{"input":1,"output":1}}\n\n');
    },
  });
  const page = await openPage(server.origin);
  await load(page, "test/support/naive-chat.tsx");
  await page.evaluate((tokens) => void Object.assign(window, { naive: pattern.mountNaive(tokens) }), tokens);
  const naive = (): Promise<number> =>
    page.evaluate(() => (window as unknown as { naive: { renders: number } }).naive.renders);
  await eventually(async () => (await naive()) >= tokens);

  const right = await openPage(server.origin);
  await load(right, "test/support/chat-app.tsx");
  await right.evaluate(() => Object.assign(window, { seen: pattern.mountChat("Chat") }));
  await right.click("#send");
  const seen = (): Promise<Seen> => right.evaluate(() => (window as unknown as { seen: Seen }).seen);
  await eventually(async () => (await seen()).status === "done");
  expect((await seen()).text).toHaveLength(tokens);
  expect((await seen()).renders).toBeLessThan(tokens / 5);
});

test("innerHTML parses the answer again for each token", async () => {
  const page = await openPage((await serve({})).origin);
  const parsed = await page.evaluate(() => {
    const [slow, fast] = [document.createElement("p"), document.createElement("p")];
    const node = fast.appendChild(document.createTextNode(""));
    let nodes = 0;
    for (let at = 0; at < 500; at++) {
      const before = slow.firstChild;
      slow.innerHTML += "x";
      if (slow.firstChild !== before) nodes += 1;
      node.appendData("x");
    }
    return { nodes, same: fast.firstChild === node, equal: slow.textContent === fast.textContent };
  });
  expect(parsed).toEqual({ nodes: 500, same: true, equal: true });
});
