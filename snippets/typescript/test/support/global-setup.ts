// Once for the whole run: one Chromium, and the Rust patterns on a loopback port.
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  export interface ProvidedContext {
    browser: string;
    rust: string;
  }
}

const workspace = fileURLToPath(new URL("../../../..", import.meta.url));

/** Silent, and without a sandbox, which containers rarely allow. */
export const browserArguments = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const rust = await startRust();
  const browser = await chromium.launchServer({
    executablePath: chromiumPath(),
    // Playwright turns the back/forward cache off, and with it what `pagehide` is for.
    ignoreDefaultArgs: ["--disable-back-forward-cache"],
    args: browserArguments,
  });
  project.provide("browser", browser.wsEndpoint());
  project.provide("rust", rust.url);
  return async () => {
    await browser.close();
    rust.stop();
  };
}

export function chromiumPath(): string {
  const found = [process.env["CHROMIUM"], "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(
    (path) => path !== undefined && existsSync(path),
  );
  if (found === undefined) throw new Error("no Chromium: install the package chromium, or set CHROMIUM to its path");
  return found;
}

/** Builds and starts `snippets/examples/test_server.rs`; it ends when its standard input closes. */
async function startRust(): Promise<{ url: string; stop: () => void }> {
  let binary = process.env["STREAM_TEST_SERVER"];
  if (binary === undefined) {
    const build = spawnSync(
      process.env["CARGO"] ?? "cargo",
      ["build", "--quiet", "-p", "snippets", "--example", "test_server", "--message-format=json"],
      { cwd: workspace, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] },
    );
    if (build.status !== 0) throw new Error("cargo build --example test_server failed");
    binary = build.stdout
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as { executable?: string | null; target?: { name: string } })
      .find((message) => message.executable != null && message.target?.name === "test_server")?.executable ?? undefined;
    if (binary === undefined) throw new Error("cargo named no test_server executable");
  }
  const child = spawn(binary, { stdio: ["pipe", "pipe", "inherit"] });
  const url = await new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`test_server ended with ${code}`)));
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      const match = /http:\/\/\S+/.exec(text);
      if (match !== null) resolve(match[0]);
    });
  });
  return { url, stop: () => void child.stdin.end() };
}
