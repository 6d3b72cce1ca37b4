// The page of the rolling restart in a real Chromium, for snippets/tests/production_deploy.rs: node rolling.mjs URL
// Prints "reading" when both readers have events; a number on its input is the event after which it prints what they saw.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline/promises";
import { chromium } from "playwright-core";

const [url] = process.argv.slice(2);
const places = [...(process.env.PATH ?? "").split(":").map((folder) => join(folder, "chromium")), "/usr/bin/chromium"];
const executablePath = places.find((place) => existsSync(place));
if (!executablePath) throw new Error("Chromium is missing: run ./check");
const flags =
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";
const profile = mkdtempSync(join(tmpdir(), "rolling-"));
// The test that starts this gives up a hang; Playwright would take a busy machine for one.
const context = await chromium.launchPersistentContext(profile, { executablePath, args: flags.split(" "), timeout: 0 });
context.setDefaultTimeout(0);
try {
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForFunction(() => window.readers.every((reader) => reader.received > 0));
  console.log("reading");
  const input = createInterface({ input: process.stdin });
  for await (const line of input) {
    await page.waitForFunction((last) => window.readers.every((reader) => reader.data.at(-1) >= last), Number(line));
    console.log(JSON.stringify(await page.evaluate(() => window.readers)));
  }
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
