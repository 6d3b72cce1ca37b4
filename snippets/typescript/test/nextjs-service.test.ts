// `sh copy service/next-chat` as a reader runs it: installed, built, started with its defaults, and probed.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { freePort } from "../../../tools/testkit.mjs";
import { buildProbe, probe } from "./support/probe.ts";

const pack = fileURLToPath(new URL("../../..", import.meta.url));

beforeAll(buildProbe, 600_000);

// As in a shell: no NODE_ENV of Vitest, no key.
const { NODE_ENV: _, OPENAI_API_KEY: __, ...shell } = process.env;
const env = { ...shell, NEXT_TELEMETRY_DISABLED: "1", NO_COLOR: "1" } as NodeJS.ProcessEnv;

/** `npm start` without npm, which would be one more process to end. */
async function start(home: string, more: Record<string, string>): Promise<{ origin: string; said: () => string }> {
  const child = spawn(process.execPath, ["start.mjs", "start", "-p", "0"], {
    cwd: home,
    env: { ...env, ...more },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ended = once(child, "exit");
  onTestFinished(async () => {
    child.kill("SIGTERM");
    await ended;
  });
  let said = "";
  const origin = await new Promise<string>((resolve, reject) => {
    for (const pipe of [child.stdout, child.stderr])
      pipe.setEncoding("utf8").on("data", (text: string) => {
        said += text;
        const found = /http:\/\/127\.0\.0\.1:\d+/.exec(said)?.[0];
        if (found !== undefined && said.includes("Ready")) resolve(found);
      });
    void ended.then(() => reject(new Error(`it ended\n${said}`)));
  });
  return { origin, said: () => said };
}

test("the copied service starts without configuration, and the probe finds nothing", async () => {
  const folder = mkdtempSync(join(tmpdir(), "next-chat-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const home = join(folder, "chat");
  execFileSync("sh", [join(pack, "copy"), "service/next-chat", home], { stdio: "pipe" });
  const run = (...command: string[]): Buffer =>
    execFileSync(command[0]!, command.slice(1), { cwd: home, env, stdio: "pipe" });
  // What ./check has installed for services/next-chat is in npm's cache.
  run("npm", "ci", "--prefer-offline", "--no-audit", "--no-fund");
  run(process.execPath, "node_modules/next/dist/bin/next", "build");

  const scripted = await start(home, {});
  expect(await (await fetch(scripted.origin)).text()).toContain("<h1>Chat</h1>");
  const body = JSON.stringify({ messages: [{ role: "user", content: "Hello" }] });
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${scripted.origin}/api/chat`, { method: "POST", headers, body });
  expect(await answer.text()).toMatch(/event: text\n[\s\S]*event: done\n/);
  expect(scripted.said()).toContain("the scripted model answers");

  const upstream = `127.0.0.1:${await freePort()}`;
  const probed = await start(home, { OPENAI_API_KEY: "key", OPENAI_BASE_URL: `http://${upstream}/v1` });
  expect(probed.said()).not.toContain("scripted");
  const found = await probe(
    "llm",
    `${probed.origin}/api/chat`,
    ...["--client", "fetch", "--terminal", "done", "--upstream", upstream, "--budget", "120", "--data", body],
  );
  expect([found.failed, found.unknown]).toEqual([[], []]);
}, 900_000);
