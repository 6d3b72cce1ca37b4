// What stream-probe says of the routes of the Next.js application.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { freePort } from "../../../tools/testkit.mjs";
import { startNext } from "./support/next-server.ts";
import { newJob, origin } from "./support/nextjs.ts";
import { buildProbe, probe } from "./support/probe.ts";

beforeAll(buildProbe, 600_000);

test("the event stream passes", async () => {
  const job = await newJob();
  await job.publish("progress", { step: 1 });
  const publish = `curl -s -d '{"type":"progress","data":{}}' ${origin()}/testing/jobs/${job.id}`;
  const found = await probe("sse", `${origin()}/api/jobs/${job.id}/events`, "--publish", publish, "--budget", "8");
  expect(found.failed).toEqual([]);
  expect(found.passed).toEqual(
    expect.arrayContaining([
      "sse-head-finishes",
      "sse-gzip-incremental",
      "sse-resume-no-gap",
      "sse-cursor-future",
      "sse-retry-jitter",
    ]),
  );
});

test("both LLM routes pass, with the probe in the place of the model", async () => {
  const folder = mkdtempSync(join(tmpdir(), "probed-"));
  const upstream = `127.0.0.1:${await freePort()}`;
  const env = {
    ...process.env,
    NODE_ENV: "production" as const,
    OPENAI_BASE_URL: `http://${upstream}/v1`,
    OPENAI_API_KEY: "key",
    MODELS: "probed",
  };
  const { server, stop } = await startNext(folder, env);
  onTestFinished(async () => {
    await stop();
    rmSync(folder, { recursive: true, force: true });
  });
  const user = { role: "user", content: "Hello" };
  const ui = { id: "1", role: "user", parts: [{ type: "text", text: "Hello" }] };
  for (const [path, message, ...more] of [
    ["/api/chat", user, "--terminal", "done"],
    ["/api/ai", ui],
  ] as const) {
    const body = JSON.stringify({ messages: [message] });
    // The heartbeat comes after 15 s of silence: too long for a test.
    const args = [
      "--data",
      body,
      "--client",
      "fetch",
      "--upstream",
      upstream,
      "--budget",
      "60",
      "--skip",
      "llm-heartbeat-before-token",
      ...more,
    ];
    const found = await probe("llm", server.origin + path, ...args);
    expect([found.failed, found.unknown], path).toEqual([[], []]);
    expect(found.passed).toEqual(
      expect.arrayContaining(["llm-truncation-visible", "llm-abort-stops-work", "llm-slow-reader-bounded"]),
    );
  }
});
