// A conversation, a page that is reloaded, and a network that is cut.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createServer, connect as dial } from "node:net";
import { json } from "node:stream/consumers";
import { describe, expect, inject, onTestFinished, test } from "vitest";
import { generationsSource } from "../src/llm/answer-source.ts";
import { type ChatMessage, history } from "../src/llm/chat.ts";
import { readChat } from "../src/llm/read-chat.ts";
import { load, openPage } from "./support/browser.ts";
import { gone, serve, sse } from "./support/server.ts";

declare const pattern: typeof import("./support/chat-log.tsx") &
  typeof import("../src/llm/answer-source.ts") &
  typeof import("./support/activity-chat.tsx");

const DONE = 'event: done\ndata: {"reason":"stop","tools":[],"usage":{"input":1,"output":2}}\n\n';
const token = (text: string): string => `event: text\ndata: ${JSON.stringify({ text })}\n\n`;
const never = new AbortController().signal;

/** `sessionStorage` of a tab. */
function storage(): Pick<Storage, "getItem" | "setItem"> & { entries: Map<string, string> } {
  const entries = new Map<string, string>();
  return {
    entries,
    getItem: (name) => entries.get(name) ?? null,
    setItem: (name, value) => void entries.set(name, value),
  };
}

/** Forwards to `target`, and breaks the connection that has passed `cutAfter` on, once. */
async function proxy(target: string, cutAfter: string): Promise<{ origin: string; connections: () => number }> {
  const { hostname, port } = new URL(target);
  const open = new Set<ReturnType<typeof dial>>();
  let connections = 0;
  let done = false;
  const server = createServer((near) => {
    connections += 1;
    const far = dial(Number(port), hostname);
    open.add(near);
    near.pipe(far);
    far.on("end", () => near.end());
    far.on("data", (chunk: Buffer) => {
      near.write(chunk, () => {
        if (done || !chunk.includes(cutAfter)) return;
        done = true;
        near.resetAndDestroy();
      });
    });
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      one.on("error", () => other.destroy());
      one.on("close", () => {
        open.delete(near);
        other.destroy();
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.close();
    for (const socket of open) socket.destroy();
  });
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, connections: () => connections };
}

describe("generationsSource against the Rust endpoint", () => {
  const question = { messages: [{ role: "user", content: "Hello" }] };

  test("a cut in the middle of the answer loses nothing and repeats nothing", async () => {
    const network = await proxy(inject("rust"), '"two ');
    const source = generationsSource(`${network.origin}/slow/generations`, { storage: storage(), minDelay: 20 });
    const texts: string[] = [];
    const done = await readChat(source.ask(question, never), (_, text) => void texts.push(text));
    expect([texts.join(""), done.reason]).toEqual(["one two three four five six", "stop"]);
    expect(network.connections()).toBeGreaterThan(1);
  });

  test("after a reload the key of the tab finds the answer, and Stop ends it", async () => {
    const url = `${inject("rust")}/held/generations`;
    const tab = storage();
    const leave = new AbortController();
    const before = readChat(generationsSource(url, { storage: tab }).ask(question, leave.signal), () =>
      leave.abort(new Error("reload")),
    );
    await expect(before).rejects.toThrow("reload");
    const page = generationsSource(url, { storage: tab });
    let text = "";
    const after = readChat(page.attach!(never)!, (_, delta) => {
      text += delta;
      page.stop!();
    });
    await expect(after).rejects.toMatchObject({ code: "stopped" });
    expect(text.startsWith("one ")).toBe(true);
    const another = generationsSource(url, { storage: storage() });
    expect(another.attach!(never)).toBeUndefined();
    const unknown = storage();
    unknown.setItem(`answer:${url}`, "gone");
    await expect(
      readChat(generationsSource(url, { storage: unknown }).attach!(never)!, () => undefined),
    ).rejects.toMatchObject({ code: "forgotten" });
  });

  test("a refusal whose body states that it is final is not repeated, and one of a proxy is", async () => {
    const server = await serve({
      "/generations": (_, response, nth) => {
        if (nth === 1) return void response.writeHead(502, { "content-type": "text/html" }).end("<h1>Bad Gateway</h1>");
        response.writeHead(502, { "content-type": "application/json" });
        response.end('{"code":"misconfigured","retryable":false}');
      },
    });
    const source = generationsSource(`${server.origin}/generations`, { storage: storage(), minDelay: 1 });
    await expect(readChat(source.ask({}, never), () => undefined)).rejects.toMatchObject({
      code: "misconfigured",
      retryable: false,
    });
    expect(server.requests).toHaveLength(2);
  });

  test("a Stop that overtakes its question is remembered", async () => {
    const url = `${inject("rust")}/slow/generations`;
    const tab = storage();
    tab.setItem(`answer:${url}`, "overtaken");
    expect((await fetch(`${url}/overtaken`, { method: "DELETE" })).status).toBe(204);
    const headers = { "idempotency-key": "overtaken", "content-type": "application/json" };
    const late = await fetch(url, { method: "POST", headers, body: JSON.stringify(question) });
    await expect(readChat(late, () => undefined)).rejects.toMatchObject({ code: "stopped" });
  });

  test("the hook reads on after Activity, and Stop reaches the model", async () => {
    const page = await openPage(inject("rust"));
    await load(page, "llm/answer-source.ts", "test/support/activity-chat.tsx");
    await page.evaluate(() => pattern.mountActivity(pattern.generationsSource("/slow/generations")));
    const shows = (what: string, text: string) =>
      page.waitForFunction(
        ([what, text]) => document.querySelector(what!)?.textContent?.startsWith(text!),
        [what, text],
      );
    await page.click("#send");
    await shows("output", "one");
    await page.click("#navigate");
    await page.click("#navigate");
    await shows("#status", "done");
    expect(await page.textContent("output")).toBe("one two three four five six");
    await page.reload();
    await load(page, "llm/answer-source.ts", "test/support/activity-chat.tsx");
    await page.evaluate(() => pattern.mountActivity(pattern.generationsSource("/slow/generations")));
    await shows("#status", "done");
    expect(await page.textContent("output")).toBe("one two three four five six");
    await page.reload();
    await load(page, "llm/answer-source.ts", "test/support/activity-chat.tsx");
    await page.evaluate(() => pattern.mountActivity(pattern.generationsSource("/held/generations")));
    await page.click("#send");
    await shows("output", "one");
    await page.click("#stop");
    await shows("#status", "stopped");
  });
});

describe("Chat in Chromium", () => {
  test("history, Stop, regenerate and a failure, with stable ids", async () => {
    const bodies: { role: string; content: string }[][] = [];
    const server = await serve({
      "/chat": async (request, response, nth) => {
        bodies.push(((await json(request)) as { messages: { role: string; content: string }[] }).messages);
        sse(response, token(`answer ${nth}`));
        if (nth === 2) await gone(response);
        else response.end(nth === 3 ? "" : DONE);
      },
    });
    const page = await openPage(server.origin);
    await load(page, "test/support/chat-log.tsx");
    await page.evaluate(() => pattern.mountLog());
    await page.waitForFunction(() => pattern.log.mounted === 2);
    const last = (status: string): Promise<unknown> =>
      page.waitForFunction((status) => pattern.log.last()?.answer?.status === status, status);
    const messages = (): Promise<ChatMessage[]> => page.evaluate(() => [...pattern.log.chat.getMessages()]);

    await page.evaluate(() => pattern.log.chat.send("first"));
    await last("done");
    const ids = (await messages()).map(({ id }) => id);
    await page.evaluate(() => pattern.log.chat.send("second"));
    await page.waitForFunction(() => pattern.log.last()?.text === "answer 2");
    await page.evaluate(() => pattern.log.chat.stop());
    await last("stopped");
    await page.evaluate(() => pattern.log.chat.send("third")); // the server ends it without its terminal event
    await last("failed");
    await page.evaluate(() => pattern.log.chat.regenerate());
    await last("done");

    expect((await messages()).map(({ text }) => text)).toEqual([
      "first",
      "answer 1",
      "second",
      "answer 2",
      "third",
      "answer 4",
    ]);
    expect((await messages()).slice(0, 2).map(({ id }) => id)).toEqual(ids);
    expect(new Set((await messages()).map(({ id }) => id)).size).toBe(6);
    // What the user has read is sent, what failed is not.
    expect(bodies[3]!.map(({ content }) => content)).toEqual(["first", "answer 1", "second", "answer 2", "third"]);
    expect(await page.textContent("[role=status]")).toBe("answer 4");
    // Messages that have not changed are not rendered again for each frame of another.
    expect(await page.evaluate((id) => pattern.log.renders(id), ids[0]!)).toBeLessThan(4);
  });

  test("the end stays in view, and not while the reader is above or has selected text", async () => {
    const page = await openPage((await serve({})).origin);
    await load(page, "test/support/chat-log.tsx");
    const seen = await page.evaluate(async () => {
      const { scroller, grow, sticky, frames } = pattern.mountSticky();
      const bottom = (): boolean => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 2;
      const seen: Record<string, boolean> = {};
      await grow();
      seen["follows"] = bottom();
      scroller.scrollTop = 100;
      await frames();
      await grow();
      seen["stays above"] = scroller.scrollTop === 100 && !sticky.atBottom();
      sticky.toBottom();
      await grow();
      seen["follows again"] = bottom();
      const place = scroller.scrollTop;
      getSelection()!.selectAllChildren(scroller.querySelector("p")!);
      await grow();
      seen["selecting"] = scroller.scrollTop === place;
      getSelection()!.removeAllRanges();
      await grow();
      seen["after selecting"] = bottom();
      return seen;
    });
    expect(seen).toEqual({
      follows: true,
      "stays above": true,
      "follows again": true,
      selecting: true,
      "after selecting": true,
    });
  });
});

test("history resends what the user has read, and nothing that was refused or failed", () => {
  const said = (
    role: "user" | "assistant",
    text: string,
    status?: "done" | "stopped" | "failed",
    reason?: string,
  ): ChatMessage => ({
    id: text,
    role,
    text,
    ...(status && {
      answer: {
        text,
        reasoning: "",
        status,
        ...(reason && { done: { reason, tools: [], usage: { input: 1, output: 1 } } as never }),
      },
    }),
  });
  const turns = history([
    said("user", "a"),
    said("assistant", "A", "done", "stop"),
    said("user", "forbidden"),
    said("assistant", "I can't", "done", "refusal"),
    said("user", "b"),
    said("assistant", "B1 of", "done", "max_tokens"),
    said("user", "c"),
    said("assistant", "half", "failed"),
    said("user", "d"),
    said("assistant", "", "stopped"),
    said("user", "e"),
    said("assistant", "E so f", "stopped"),
    said("user", "f"),
  ]);
  expect(turns).toEqual([
    { role: "user", content: "a" },
    { role: "assistant", content: "A" },
    { role: "user", content: "b" },
    { role: "assistant", content: "B1 of" },
    { role: "user", content: "c\n\nd\n\ne" },
    { role: "assistant", content: "E so f" },
    { role: "user", content: "f" },
  ]);
});
