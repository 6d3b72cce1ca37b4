// The LLM routes of the Next.js application, with the `openai` package and the AI SDK, against the scripted model; and its
// pages against the Rust relay as well.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { describe, expect, inject, onTestFinished, test } from "vitest";
import { relaySource } from "../src/llm/answer-source.ts";
import { Chat, type ChatMessage } from "../src/llm/chat.ts";
import type { Failed } from "../src/llm/chat-events.ts";
import { postChat, readChat } from "../src/llm/read-chat.ts";
import { newContext } from "./support/browser.ts";
import { type NextServer, startNext } from "./support/next-server.ts";
import { exchanges, logText, origin, state } from "./support/nextjs.ts";
import { eventually, gone, serve, signal, sse } from "./support/server.ts";

const never = new AbortController().signal;
const ANSWER = "Hello from the scripted model.";

async function read(url: string, body: unknown, signal = never): Promise<[text: string, outcome: unknown]> {
  let text = "";
  const outcome = await readChat(postChat(url, body, signal), (_, delta) => void (text += delta)).catch(
    (error: unknown) => error,
  );
  return [text, outcome];
}

const ask = (script: string, content = "Hello"): object => ({
  model: `scripted/${script}`,
  messages: [{ role: "user", content }],
});
const askUi = (script: string, text = "Hello"): object => ({
  model: `scripted/${script}`,
  messages: [{ id: "1", role: "user", parts: [{ type: "text", text }] }],
});

const post = (url: string, body: unknown, signal = never, type = "application/json"): Promise<Response> =>
  fetch(url, { method: "POST", headers: { "content-type": type }, body: JSON.stringify(body), signal });

/** Asks, waits for the head of the response and one chunk of it, and leaves. */
async function askAndLeave(path: string, body: object, until: () => Promise<boolean>): Promise<void> {
  const abort = new AbortController();
  const response = await post(origin() + path, body, abort.signal);
  expect(response.status).toBe(200);
  await response.body!.getReader().read();
  await eventually(until);
  abort.abort();
}

describe("the route with the openai package", () => {
  test("comes to the same end as the Rust relay, whatever goes wrong", async () => {
    for (const script of [
      "plain",
      "bytes",
      "tools",
      "length",
      "refusal",
      "cut",
      "cut-inside",
      "abort",
      "error",
      "rate-limit",
      "overloaded",
    ]) {
      const [text, outcome] = await read(`${origin()}/api/chat`, ask(script));
      // What it refuses before the stream is a status of the relay; the client cannot tell the two apart.
      const [relayed, expected] = await read(`${origin()}/backend/llm/${script}/chat`, ask(script));
      expect.soft([script, text, outcome]).toEqual([script, relayed, expected]);
      if (script.startsWith("cut")) expect(outcome).toMatchObject({ code: "truncated" });
    }
  });

  test("a provider's refusal before the first token is the status of the Rust relay, with its wait", async () => {
    for (const script of ["rate-limit", "overloaded"]) {
      const urls = [`${origin()}/api/chat`, `${origin()}/backend/llm/${script}/chat`];
      const answers = urls.map(async (url) => {
        const response = await post(url, ask(script));
        const { code, retryable } = (await response.json()) as Failed;
        return [response.status, response.headers.has("retry-after"), code, retryable];
      });
      const [own, relayed] = await Promise.all(answers);
      expect(own).toEqual(relayed);
      expect(own![0]).toBe(script === "rate-limit" ? 429 : 503);
    }
    expect((await post(`${origin()}/api/chat`, ask("rate-limit"))).headers.get("retry-after")).toBe("7");
  });

  test("refuses what is not a question of a user before it asks anything", async () => {
    for (const [code, body] of [
      ["unknown_model", { ...ask("plain", "refused"), model: "scripted/unknown" }],
      ["role_refused", { messages: [{ role: "system", content: "refused" }] }],
      ["role_refused", { messages: [{ role: "toString", content: "refused" }] }],
      ["invalid", { messages: [{ role: "user", content: "refused".padEnd(300_000) }] }],
      ["invalid", { messages: [{ role: "user", content: 1 }, null] }],
      ["invalid", { messages: [] }],
      ["invalid", null],
    ]) {
      const [, outcome] = await read(`${origin()}/api/chat`, body);
      expect(outcome).toMatchObject({ code, retryable: false });
    }
    // What a page of another site may send without asking.
    for (const path of ["/api/chat", "/api/ai"])
      expect((await post(origin() + path, ask("plain", "refused"), never, "text/plain")).status).toBe(400);
    expect(await exchanges("refused")).toEqual([]);
  });

  test("an answer is stored as what it is, also when the client has left", async () => {
    const stored = async (about: string): Promise<[string, string][]> =>
      (await state()).answers.filter(({ question }) => question === about).map(({ text, outcome }) => [text, outcome]);
    await read(`${origin()}/api/chat`, ask("plain", "whole"));
    await read(`${origin()}/api/chat`, ask("cut", "cut off"));
    await askAndLeave(
      "/api/chat",
      ask("stall", "left alone"),
      async () => (await exchanges("left alone")).length === 1,
    );
    for (const [about, outcome] of [
      ["whole", "done"],
      ["cut off", "failed"],
      ["left alone", "stopped"],
    ] as const) {
      await eventually(async () => (await stored(about)).length === 1);
      const [text, found] = (await stored(about))[0]!;
      expect([ANSWER.startsWith(text), text === ANSWER, found]).toEqual([true, outcome === "done", outcome]);
    }
  });

  test("the time to the first token is measured at a token", async () => {
    const times = (): number => logText().split('{"metric":"llm_first_token_ms","model":"scripted/bytes"').length;
    const before = times();
    await read(`${origin()}/api/chat`, ask("bytes"));
    await eventually(() => times() === before + 1);
  });
});

test("a conversation that outgrows the route continues with its newest turns", async () => {
  const turns = Array.from({ length: 150 }, (_, at): ChatMessage => {
    const role = at % 2 === 0 ? "user" : "assistant";
    return { id: `${at}`, role, text: `turn ${at} ${"語".repeat(900)}` };
  });
  const ended = Promise.withResolvers<readonly ChatMessage[]>();
  const source = relaySource(`${origin()}/api/chat`);
  new Chat(source, { messages: turns, onEnd: ended.resolve }).send("the newest question");
  const { answer, text } = (await ended.promise).at(-1)!;
  expect([answer?.status, text]).toEqual(["done", ANSWER]);
  expect(await exchanges("turn 148")).toEqual(await exchanges("the newest question"));
  expect(await exchanges("turn 8 ")).toEqual([]);
});

test("both routes send their head while the model is silent, and close its connection when the client leaves", async () => {
  for (const path of ["/api/chat", "/api/ai"]) {
    for (const script of ["hold-head", "stall"]) {
      const question = `${path} ${script}`;
      const body = path === "/api/ai" ? askUi(script, question) : ask(script, question);
      await askAndLeave(path, body, async () => (await exchanges(question)).some(({ end }) => end === "None"));
      await eventually(async () => (await exchanges(question)).every(({ end }) => end !== "None"));
    }
  }
});

describe("the scripted model in Node", () => {
  const start = async (): Promise<{ url: string; log: () => string }> => {
    const script = join(import.meta.dirname, "../../../services/other-stacks/scripted-model.mjs");
    const child = spawn(process.execPath, [script], { env: { ...process.env, TEXT: ANSWER } });
    onTestFinished(() => void child.kill());
    let log = "";
    child.stdout.on("data", (text: Buffer) => void (log += text.toString()));
    await eventually(() => log.includes("\n"));
    return { url: log.split("\n")[0]!, log: () => log };
  };
  /** Status, wait, whole events, what is left of one that was cut, and how the body ended. */
  const answer = async (url: string, script: string): Promise<unknown[]> => {
    const response = await post(`${url}/v1/chat/completions`, { ...ask(script), stream: true });
    const wait = response.headers.get("retry-after");
    if (response.status !== 200) return [response.status, wait, await response.json()];
    let text = "";
    let ending = "clean";
    try {
      for await (const part of response.body!.pipeThrough(new TextDecoderStream())) text += part;
    } catch {
      ending = "reset";
    }
    const blocks = text.replaceAll(/chatcmpl-\d+/g, "chatcmpl").split("\n\n");
    const rest = blocks.pop() !== "";
    const events = blocks.map((block) => (block.endsWith("[DONE]") ? block : JSON.parse(block.slice(6))));
    return [response.status, wait, events, rest, ending];
  };

  test("sends the answers and the faults of the Rust one", async () => {
    const { url, log } = await start();
    for (const script of ["plain", "bytes", "tools", "length", "refusal", "cut", "cut-inside", "abort", "error"])
      expect
        .soft([script, await answer(url, script)])
        .toEqual([script, await answer(`${inject("backend")}/model`, script)]);
    for (const script of ["rate-limit", "overloaded"])
      expect
        .soft([script, await answer(url, script)])
        .toEqual([script, await answer(`${inject("backend")}/model`, script)]);
    expect((await post(`${url}/v1/chat/completions`, ask("unknown"))).status).toBe(404);
    for (const script of ["stall", "hold-head", "slow"]) {
      const abort = new AbortController();
      const asked = post(`${url}/v1/chat/completions`, ask(script), abort.signal).catch(() => undefined);
      await eventually(() => log().includes(`scripted/${script} begun`));
      if (script === "stall") await (await asked)!.body!.getReader().read();
      abort.abort();
      await eventually(() => log().includes(`scripted/${script} left`));
    }
  });
});

describe("another start of the application", () => {
  const start = async (env: Record<string, string>): Promise<NextServer> => {
    const folder = mkdtempSync(join(tmpdir(), "nextjs-"));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const { server, stop } = await startNext(folder, {
      ...process.env,
      NODE_ENV: "production",
      BACKEND_URL: inject("backend"),
      PLAIN_URL: inject("plain"),
      ...env,
    });
    onTestFinished(stop);
    return server;
  };

  test("a wrong value in the environment ends the server with its name", async () => {
    for (const [name, value] of [
      ["MODEL_SILENCE_MS", "fast"],
      ["MODEL_SILENCE_MS", "0"],
      ["UNREAD_MS", "-1"],
      ["MODELS", "a,,b"],
      ["OPENAI_API_KEY", ""],
      ["OPENAI_BASE_URL", "api.openai.com"],
    ] as const) {
      // It may be called ready before it ends.
      const said = await start({ [name]: value }).then(
        async ({ origin, log }) => {
          await eventually(() =>
            fetch(origin).then(
              () => false,
              () => true,
            ),
          );
          return readFileSync(log, "utf8");
        },
        (error: unknown) => String(error),
      );
      expect(said).toContain(`${name}:`);
    }
  });

  test("an answer that is complete stays complete when its connection is reset afterwards", async () => {
    const chunk = (delta: object, reason: string | null): string =>
      `data: ${JSON.stringify({ id: "1", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index: 0, delta, finish_reason: reason }] })}\n\n`;
    const provider = await serve({
      "/v1/chat/completions": (_, response) => {
        sse(response, chunk({ content: "Hello" }, null) + chunk({}, "stop"));
        setTimeout(() => response.socket?.resetAndDestroy(), 100);
      },
      // Hosts of the same format, each in its own way.
      "/hosts/chat/completions": (_, response, nth) => {
        const thought = chunk({ reasoning_content: "Hm" }, null) + chunk({ reasoning: "mm." }, null);
        const ends = [
          chunk({ content: "Yes." }, "stop"),
          chunk({ content: "Hal" }, "error"),
          chunk({ refusal: "No." }, "stop"),
        ];
        sse(response, `${thought}${ends[nth - 1]}data: [DONE]\n\n`).end();
      },
    });
    const { origin: from } = await start({
      OPENAI_BASE_URL: `${provider.origin}/v1`,
      OPENAI_API_KEY: "k",
      MODELS: "m",
    });
    const [text, done] = await read(`${from}/api/chat`, { messages: [{ role: "user", content: "Hello" }] });
    expect([text, done]).toMatchObject(["Hello", { reason: "stop" }]);

    const other = await start({ OPENAI_BASE_URL: `${provider.origin}/hosts`, OPENAI_API_KEY: "k", MODELS: "m" });
    for (const [expected, end] of [
      ["reasoning:Hmmm. text:Yes.", { reason: "stop" }],
      ["reasoning:Hmmm. text:Hal", { code: "model_failed" }],
      ["reasoning:Hmmm. refusal:No.", { reason: "refusal" }],
    ] as const) {
      const seen = new Map<string, string>();
      const events = postChat(`${other.origin}/api/chat`, { messages: [{ role: "user", content: "Hello" }] }, never);
      const outcome = await readChat(events, (kind, more) => void seen.set(kind, (seen.get(kind) ?? "") + more)).catch(
        (error: unknown) => error,
      );
      expect([...seen].map(([kind, all]) => `${kind}:${all}`).join(" ")).toBe(expected);
      expect(outcome).toMatchObject(end);
    }
  });

  test("a reader that keeps its connection and takes nothing ends the answer at the provider", async () => {
    const choices = [{ index: 0, delta: { content: "word ".repeat(1_000) }, finish_reason: null }];
    const chunk = `data: ${JSON.stringify({ id: "1", object: "chat.completion.chunk", created: 1, model: "m", choices })}\n\n`;
    const asked = signal<ServerResponse>();
    const provider = await serve({
      "/v1/chat/completions": (_, response) => {
        // More than all buffers on the path hold, as fast as it is taken.
        const more = (): void => {
          while (response.write(chunk));
        };
        sse(response).on("drain", more);
        more();
        asked.resolve(response);
      },
    });
    const { origin: from } = await start({
      OPENAI_BASE_URL: `${provider.origin}/v1`,
      OPENAI_API_KEY: "k",
      MODELS: "m",
      UNREAD_MS: "1000",
    });
    const response = await post(`${from}/api/chat`, { messages: [{ role: "user", content: "Hello" }] });
    expect(response.status).toBe(200);
    await gone(await asked.promise);
    await response.body!.cancel();
  });
});

test("both routes end the answer of a model that is silent for too long as failed", async () => {
  const { origin } = inject("second");
  for (const script of ["hold-head", "stall"]) {
    const question = `silent ${script}`;
    expect((await read(`${origin}/api/chat`, ask(script, question)))[1]).toMatchObject({
      code: "model_silent",
      retryable: true,
    });
    expect((await parts(script, origin, question)).at(-1)).toEqual({ type: "error", errorText: "The answer failed." });
    await eventually(async () => (await exchanges(question)).every(({ end }) => end !== "None"));
  }
});

/** What `useChat` is sent. */
async function parts(
  script: string,
  from = origin(),
  question = "Hello",
): Promise<{ type: string; finishReason?: string }[]> {
  const response = await post(`${from}/api/ai`, askUi(script, question));
  expect(response.headers.get("x-vercel-ai-ui-message-stream")).toBe("v1");
  expect(response.headers.get("cache-control")).toBe("no-store, no-transform");
  const lines = (await response.text()).split("\n").filter((line) => line.startsWith("data: {"));
  return lines.map((line) => JSON.parse(line.slice(6)) as { type: string });
}

describe("the route with the AI SDK", () => {
  test("ends a cut answer with an error, and no error with the provider's words", async () => {
    expect((await parts("plain")).at(-1)).toMatchObject({ type: "finish", finishReason: "stop" });
    expect((await parts("length")).at(-1)).toMatchObject({ type: "finish", finishReason: "length" });
    for (const script of ["cut", "cut-inside", "abort", "rate-limit"]) {
      expect((await parts(script)).at(-1), script).toEqual({ type: "error", errorText: "The answer failed." });
    }
    const failed = await parts("error");
    expect(failed).toContainEqual({ type: "error", errorText: "The answer failed." });
    expect(JSON.stringify(failed)).not.toContain("sk-");
  });

  test("refuses system messages", async () => {
    const body = { messages: [{ id: "1", role: "system", parts: [{ type: "text", text: "system words" }] }] };
    await (await post(`${origin()}/api/ai`, body)).text();
    expect(await exchanges("system words")).toEqual([]);
  });
});

describe("the pages in Chromium", () => {
  /** A page of the application; what it asks goes to `to.api`, with the script's name. */
  async function open(
    path: string,
  ): Promise<{ page: Page; to: { api: string; script: string }; text: (selector: string) => Promise<string | null> }> {
    const page = await (await newContext()).newPage();
    const to = { api: "", script: "" };
    await page.route(/\/api\/(chat|ai)$/, (route) => {
      const body = { ...(route.request().postDataJSON() as object), model: `scripted/${to.script}` };
      return route.continue({ url: origin() + to.api.replace("SCRIPT", to.script), postData: JSON.stringify(body) });
    });
    await page.goto(origin() + path);
    // A click before React has its handlers would be lost.
    await page.waitForFunction(() =>
      Object.keys(document.querySelector("#send") ?? {}).some((key) => key.startsWith("__reactProps")),
    );
    return { page, to, text: (selector) => page.textContent(selector) };
  }

  test("useTokenStream shows the answers of the route and of the Rust relay, and the cut ones as failed", async () => {
    const { page, to, text } = await open("/");
    for (const api of ["/api/chat", "/backend/llm/SCRIPT/chat"]) {
      for (const [script, status, error] of [
        ["plain", "done", ""],
        ["cut", "failed", "truncated"],
      ] as const) {
        Object.assign(to, { api, script });
        await page.click("#send");
        await eventually(async () => (await text("#status")) === status);
        expect(await text("#error")).toBe(error);
        expect(ANSWER.startsWith((await text("output"))!)).toBe(true);
      }
    }
  });

  test("useChat reads the route and the Rust relay, and is told of a cut", async () => {
    const { page, to, text } = await open("/ai");
    for (const api of ["/api/ai", "/backend/ui/SCRIPT/chat"]) {
      for (const [script, status, finished] of [
        ["plain", "ready", "stop"],
        ["length", "ready", "length"],
        ["cut", "error", "failed"],
        ["error", "error", "failed"],
      ] as const) {
        Object.assign(to, { api, script });
        await page.click("#send");
        await eventually(async () => (await text("#finished")) === finished);
        expect(await text("#status"), api).toBe(status);
        if (status === "ready") expect(await text("output")).toBe(ANSWER);
        else expect(await text("#error")).toMatch(/^The answer (failed|was cut)/);
      }
    }
  });

  test("Stop of both hooks closes the model's connection", async () => {
    for (const [path, api] of [
      ["/", "/api/chat"],
      ["/ai", "/api/ai"],
    ] as const) {
      const { page, to, text } = await open(path);
      Object.assign(to, { api, script: "stall" });
      const before = (await exchanges("scripted/stall")).length;
      await page.click("#send");
      await eventually(async () => (await text("output")) !== "");
      await page.click("#stop");
      await eventually(async () => (await text(path === "/" ? "#status" : "#finished")) === "stopped");
      await eventually(async () =>
        (await exchanges("scripted/stall")).slice(before).every(({ end }) => end !== "None"),
      );
    }
  });
});
