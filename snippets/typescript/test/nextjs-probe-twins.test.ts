// The wrong twins under `stream-probe`: what the wire shows of each fails the check that asks for it, and no other.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { beforeAll, expect, inject, onTestFinished, test } from "vitest";
import { STREAM_HEADERS } from "../src/sse/encode.ts";
import { startNext } from "./support/next-server.ts";
import { newJob, origin } from "./support/nextjs.ts";
import { freePort } from "./support/nginx.ts";
import { buildProbe, probe } from "./support/probe.ts";
import { serve } from "./support/server.ts";
import { throwAfter200, upstreamNotAborted, webSocketServer } from "./support/wrong.ts";

beforeAll(buildProbe, 600_000);

/** What waits for a heartbeat, or takes megabytes of events. */
const SHORT = ["--budget", "30", "--skip", "sse-heartbeat*,sse-stalled-*,sse-lag-is-told"];

async function failed(...args: string[]): Promise<string[]> {
  return (await probe(...args)).failed;
}

/** A relay that is asked with `body`; `start` is told where the probe plays the provider. */
async function llm(start: (provider: string) => Promise<string>, body: unknown): Promise<string[]> {
  const upstream = `127.0.0.1:${await freePort()}`;
  const url = await start(`http://${upstream}/v1`);
  // The heartbeat comes after 15 s of silence: too long for a test.
  return failed(
    "llm",
    url,
    "--data",
    JSON.stringify(body),
    "--client",
    "fetch",
    "--upstream",
    upstream,
    "--budget",
    "60",
    "--skip",
    "llm-heartbeat-before-token",
  );
}

async function nextRoute(path: string, provider: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "probed-"));
  const env = {
    ...process.env,
    NODE_ENV: "production" as const,
    OPENAI_BASE_URL: provider,
    OPENAI_API_KEY: "key",
    MODELS: "probed",
  };
  const { server, stop } = await startNext(folder, env);
  onTestFinished(async () => {
    await stop();
    rmSync(folder, { recursive: true, force: true });
  });
  return server.origin + path;
}

const user = { role: "user", content: "Hello" };

/** Each twin, and the checks that fail for it. */
const SHOWN: Record<string, [run: () => Promise<string[]>, failed: string[]]> = {
  "event-source-for-one-answer": [
    async () => {
      const { origin } = await serve({
        "/wrong": (_, response) => void response.writeHead(200, STREAM_HEADERS).end('data: {"text":"all of it"}\n\n'),
      });
      return failed("sse", `${origin}/wrong`, ...SHORT);
    },
    ["sse-terminal-event"],
  ],
  "throw-after-200": [
    async () => {
      const { origin } = await serve({
        "/wrong": (_, response) => {
          response.writeHead(200, STREAM_HEADERS).flushHeaders();
          pipeline(Readable.fromWeb(throwAfter200() as import("node:stream/web").ReadableStream), response).catch(
            () => undefined,
          );
        },
      });
      return failed("sse", `${origin}/wrong`, ...SHORT);
    },
    ["sse-ends-cleanly"],
  ],
  "upstream-not-aborted": [
    () =>
      llm(async (provider) => {
        const body = JSON.stringify({ model: "probed", stream: true, messages: [user] });
        const { origin } = await serve({
          "/wrong": (_, response) => {
            response.writeHead(200, STREAM_HEADERS).flushHeaders();
            const events = upstreamNotAborted(`${provider}/chat/completions`, { method: "POST", body });
            pipeline(Readable.fromWeb(events as import("node:stream/web").ReadableStream), response).catch(
              () => undefined,
            );
          },
        });
        return `${origin}/wrong`;
      }, {}),
    // It produces in start(), and hands on whatever the provider says, errors too.
    ["llm-abort-stops-work", "llm-slow-reader-bounded", "llm-error-text-clean"],
  ],
  "ws-server-without-error-listener": [
    async () => {
      const child = spawn(process.execPath, ["--input-type=module", "--eval", webSocketServer("")], {
        stdio: ["pipe", "pipe", "ignore"],
      });
      onTestFinished(() => void child.stdin.end());
      const [port] = (await once(child.stdout, "data")) as [Buffer];
      return failed(
        "ws",
        `ws://127.0.0.1:${port.toString().trim()}`,
        "--cookie",
        "sid=1",
        "--skip",
        "ws-heartbeat,ws-silent-peer-dropped,ws-flood-limited",
      );
    },
    // The unmasked frame ends its process.
    ["broken_off"],
  ],
  "nextjs-head-held": [
    async () => {
      const job = await newJob();
      const publish = `curl -s -d '{"type":"progress","data":{}}' ${origin()}/testing/jobs/${job.id}`;
      return failed("sse", `${origin()}/wrong/silent/${job.id}`, "--publish", publish, ...SHORT);
    },
    // It does not look at Last-Event-ID either.
    ["sse-headers-before-first-event", "sse-resume-no-duplicate"],
  ],
  "nextjs-prerendered-stream": [
    // It arrives as a whole, and on a busy machine late: how its bytes are spread says nothing.
    () =>
      failed(
        "sse",
        `${origin()}/wrong/frozen`,
        ...SHORT,
        "--skip",
        "sse-headers-before-first-event,sse-events-incremental",
      ),
    ["sse-terminal-event"],
  ],
  "nextjs-provider-not-told": [
    () => llm((provider) => nextRoute("/wrong/no-signal", provider), { model: "probed", messages: [user] }),
    // It produces in start().
    ["llm-abort-stops-work", "llm-slow-reader-bounded"],
  ],
  "nextjs-rewrite-gzip": [
    () =>
      failed(
        "sse",
        `${origin()}/wrong/backend/probed/events`,
        "--publish",
        `curl -s -X POST ${inject("plain")}/probed/push`,
        ...SHORT,
      ),
    // What a backend is that knows nothing of proxies.
    ["sse-no-transform", "sse-no-buffering-headers", "sse-gzip-incremental", "sse-head-finishes"],
  ],
  "nextjs-sdk-response-as-is": [
    () =>
      llm((provider) => nextRoute("/wrong/ai-no-signal", provider), {
        model: "probed",
        messages: [{ id: "1", role: "user", parts: [{ type: "text", text: "Hello" }] }],
      }),
    // Nor is it told of the client's leaving.
    ["llm-no-buffering-headers", "llm-truncation-visible", "llm-abort-stops-work"],
  ],
  "nextjs-throw-in-body": [() => failed("sse", `${origin()}/wrong/throws`, ...SHORT), ["sse-ends-cleanly"]],
};

/** What the wire of a service does not show, and why. */
const NOT_SHOWN: Record<string, string> = {
  "async-onmessage": "a client",
  "close-that-reconnects": "a client",
  "connection-per-component": "a page",
  "connection-header": "HTTP/2, which the probe does not read events over",
  "enqueue-after-cancel": "the process ends with the first reader that leaves: everything fails from there on",
  "event-by-hand": "a text of the client's becomes events that are well formed",
  "generate-in-an-effect": "a client",
  "ignore-status-and-end": "a client",
  "leave-without-cancel": "a client",
  "nextjs-head-runs-get": "HEAD is answered; the work that it began leaves no trace on the wire",
  "nextjs-module-state": "between a route and a page",
  "nextjs-proxy-truncates": "the body of a request",
  "nextjs-start-loop": "bytes, no events: what Next holds in memory shows as nextjs-provider-not-told",
  "nextjs-timer-after-leave": "in the log of the server",
  "nextjs-websocket-in-module": "the second process of an application",
  "parse-per-chunk": "a client",
  "queue-without-acks": "a client",
  "race-against-abort": "memory within the process",
  "rebuild-without-cursor": "a client",
  "relay-text-as-binary": "whether text or bytes are due, the probe does not know",
  "render-per-token": "a client",
  "sanitise-per-chunk": "a client",
  "scroll-per-token": "a page",
  "send-before-open": "a client",
  "start-without-pull": "within the service; in front of a provider it is upstream-not-aborted",
  "tee-to-save": "within the service; in front of a provider it is upstream-not-aborted",
  "trust-automatic-reconnect": "a client",
  "uncompiled-template": "at build time",
};

test("every twin is shown or has a reason", () => {
  const files = readdirSync(new URL("anti-patterns", import.meta.url)).map((name) => name.replace(/\.test\.tsx?$/, ""));
  expect([...Object.keys(SHOWN), ...Object.keys(NOT_SHOWN)].sort()).toEqual(files.sort());
});

// All at the same time: they wait more than they work.
test("every twin fails its check and no other", async () => {
  const found = await Promise.all(Object.entries(SHOWN).map(async ([name, [run]]) => [name, await run()] as const));
  expect(Object.fromEntries(found)).toEqual(
    Object.fromEntries(Object.entries(SHOWN).map(([name, [, failed]]) => [name, failed])),
  );
}, 120_000);
