// The page of the rolling restart in a real Chromium, for snippets/tests/production_deploy.rs: node rolling.mjs URL
// Prints "reading" when both readers have events; a number on its input is the event after which it prints what they saw.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline/promises";
import { chromium } from "playwright-core";
import { browserArguments, chromiumPath } from "./testkit.mjs";

const [url] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "rolling-"));
// The test that starts this gives up a hang; Playwright would take a busy machine for one.
const context = await chromium.launchPersistentContext(profile, {
  executablePath: chromiumPath(),
  args: browserArguments,
  timeout: 0,
});
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
