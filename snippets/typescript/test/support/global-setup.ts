// Once for the whole run: one Chromium, and the Rust patterns on a loopback port.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";
import type { TestProject } from "vitest/node";
import { startRust } from "./rust.ts";

declare module "vitest" {
  export interface ProvidedContext {
    browser: string;
    rust: string;
  }
}

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
    timeout: 240_000,
  });
  project.provide("browser", browser.wsEndpoint());
  project.provide("rust", rust.url);
  return async () => {
    await browser.close();
    rust.stop();
  };
}

export function chromiumPath(): string {
  const found = [
    process.env["CHROMIUM"],
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
  ].find((path) => path !== undefined && existsSync(path));
  if (found === undefined) throw new Error("no Chromium: install the package chromium, or set CHROMIUM to its path");
  return found;
}
