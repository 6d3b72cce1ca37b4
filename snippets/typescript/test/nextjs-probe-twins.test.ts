// The counterexamples under `stream-probe`: what the wire shows of each fails the checks that its header names, and no other.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { beforeAll, expect, inject, onTestFinished, test } from "vitest";
import { freePort } from "../../../tools/testkit.mjs";
import { STREAM_HEADERS } from "../src/sse/encode.ts";
import { startNext } from "./support/next-server.ts";
import { newJob, origin } from "./support/nextjs.ts";
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

/** Each counterexample whose header says `Probe: fails`, as the probe sees it: the checks that fail. */
const SHOWN: Record<string, () => Promise<string[]>> = {
  "event-source-for-one-answer": async () => {
    const { origin } = await serve({
      "/wrong": (_, response) => void response.writeHead(200, STREAM_HEADERS).end('data: {"text":"all of it"}\n\n'),
    });
    return failed("sse", `${origin}/wrong`, ...SHORT);
  },
  "throw-after-200": async () => {
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
  // It produces in start(), and hands on whatever the provider says, errors too.
  "upstream-not-aborted": () =>
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
  // The unmasked frame ends its process.
  "ws-server-without-error-listener": async () => {
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
  // It does not look at Last-Event-ID either.
  "nextjs-head-held": async () => {
    const job = await newJob();
    const publish = `curl -s -d '{"type":"progress","data":{}}' ${origin()}/testing/jobs/${job.id}`;
    return failed("sse", `${origin()}/wrong/silent/${job.id}`, "--publish", publish, ...SHORT);
  },
  "nextjs-prerendered-stream": // It arrives as a whole, and on a busy machine late: how its bytes are spread says nothing.
    () =>
      failed(
        "sse",
        `${origin()}/wrong/frozen`,
        ...SHORT,
        "--skip",
        "sse-headers-before-first-event,sse-events-incremental",
      ),
  // It produces in start().
  "nextjs-provider-not-told": () =>
    llm((provider) => nextRoute("/wrong/no-signal", provider), { model: "probed", messages: [user] }),
  // What a backend is that knows nothing of proxies.
  "nextjs-rewrite-gzip": () =>
    failed(
      "sse",
      `${origin()}/wrong/backend/probed/events`,
      "--publish",
      `curl -s -X POST ${inject("plain")}/probed/push`,
      ...SHORT,
    ),
  // Nor is it told of the client's leaving.
  "nextjs-sdk-response-as-is": () =>
    llm((provider) => nextRoute("/wrong/ai-no-signal", provider), {
      model: "probed",
      messages: [{ id: "1", role: "user", parts: [{ type: "text", text: "Hello" }] }],
    }),
  "nextjs-throw-in-body": () => failed("sse", `${origin()}/wrong/throws`, ...SHORT),
};

/** The checks that the header of each counterexample names. */
function expected(): Record<string, string[]> {
  const folder = new URL("anti-patterns/", import.meta.url);
  const found = readdirSync(folder).flatMap((file) => {
    const checks = /^\/\/ Probe: fails (.*)$/m.exec(readFileSync(new URL(file, folder), "utf8"))?.[1];
    return checks === undefined ? [] : [[file.replace(/\.test\.tsx?$/, ""), checks.split(", ")] as const];
  });
  return Object.fromEntries(found);
}

// All at the same time: they wait more than they work.
test("every counterexample fails the checks of its header and no other", async () => {
  const found = await Promise.all(Object.entries(SHOWN).map(async ([name, run]) => [name, await run()] as const));
  expect(Object.fromEntries(found)).toEqual(expected());
}, 120_000);
