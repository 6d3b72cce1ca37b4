// Once for the whole run: one Chromium, and the Rust patterns on a loopback port.
import { chromium } from "playwright-core";
import type { TestProject } from "vitest/node";
import { browserArguments, chromiumPath } from "../../../../tools/testkit.mjs";
import { startRust } from "./rust.ts";

declare module "vitest" {
  export interface ProvidedContext {
    browser: string;
    rust: string;
  }
}

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
