// Drives a real Chromium for tests/browser.rs: node browser.mjs SCENARIO URL
// Passes silently; a failed expectation is an exception and exit code 1.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const PATIENCE = 60_000;
const [scenario, url] = process.argv.slice(2);

const places = [...(process.env.PATH ?? "").split(":").map((folder) => join(folder, "chromium")), "/usr/bin/chromium"];
const executablePath = places.find((place) => existsSync(place));
if (!executablePath) throw new Error("Chromium is missing: run ./check");

const flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";
const profile = mkdtempSync(join(tmpdir(), "browser-"));
const context = await chromium.launchPersistentContext(profile, { executablePath, args: flags.split(" ") });
context.setDefaultTimeout(PATIENCE);

/** Addresses that are not of `url`: nothing may leave the machine. */
const foreign = [];
context.on("request", (request) => {
  const address = request.url();
  if (!address.startsWith(new URL("/", url).href) && !/^(data|blob):/.test(address)) foreign.push(address);
});
/** Exceptions that no code of the page has caught. */
const exceptions = [];
context.on("weberror", (error) => exceptions.push(error.error().message));

async function open(address) {
  const page = await context.newPage();
  const response = await page.goto(address);
  if (response) assert.equal(response.status(), 200, address);
  return page;
}

/** The panel of one live example, and what to do with it. */
function panelOf(page, name) {
  const root = page.locator(`[data-live="${name}"] .live-panel`);
  return {
    root,
    press: (label) => root.getByRole("button", { name: label, exact: true }).click(),
    status: (text) => root.locator(".live-status", { hasText: text }).waitFor(),
    line: (pattern) => root.locator(".live-log li", { hasText: pattern }).first().waitFor(),
    lines: () => root.locator(".live-log li").allInnerTexts(),
  };
}

const ids = (lines, name) => lines.flatMap((line) => line.match(new RegExp(`^${name} id \\D*(\\d+)`))?.[1] ?? []).map(Number);
const upTo = (first, last) => Array.from({ length: last - first + 1 }, (_, n) => first + n);

const scenarios = {
  // The connection check of /live/: a cut in the middle, and not one tick lost or seen twice.
  async check() {
    const page = await open(url);
    const p = panelOf(page, "frame-check");
    await p.status("not started");
    await p.press("Cut");
    await p.line("nothing to cut");
    await p.press("Start");
    await p.line(/^tick id 3 /);
    await p.press("Cut");
    await p.line("cut by the server (1 stream)");
    await p.status("complete");
    assert.deepEqual(ids(await p.lines(), "tick"), upTo(1, 20));
  },

  // A reader of the SSE chapters: events with ids, a real cut, what was missed, and a reset.
  async sse() {
    const page = await open(url);
    const job = panelOf(page, "sse-serve");
    await job.press("Start a job");
    await job.line(/^progress id \d+ /);
    await job.press("Cut");
    await job.line("cut by the server (1 stream)");
    await job.status("closed by the page");
    assert.equal((await job.lines()).at(-1).split(" ")[0].replace("— ", ""), "done");

    const log = panelOf(page, "sse-resume");
    await log.press("Connect");
    await log.status("connected");
    await log.press("Publish one");
    await log.line(/^line id \S+1 /);
    await log.press("Cut, publish 3");
    await log.line(/^line id \S+4 /);
    assert.deepEqual(ids(await log.lines(), "line"), upTo(1, 4));
    await log.press("Cut, publish 20");
    await log.line(/^✗ reset|^reset/);
    await log.line(/^line id \S+24 /);
    const after = ids(await log.lines(), "line").filter((id) => id > 4);
    assert.deepEqual(after, upTo(after[0], 24));
    assert.ok(after[0] > 5, "the log was trimmed");
  },

  // Without the program: a hint in place of the example, and no exception.
  async hint() {
    const page = await open(url);
    const hint = page.locator("[data-live] .live-hint");
    await hint.waitFor();
    assert.match(await hint.innerText(), /cargo run/);
    assert.equal(await page.locator(".live-panel").count(), 0);
  },

  // A module that throws is named where the example should be.
  async broken() {
    const page = await open(url);
    await page.locator(".live-hint", { hasText: "This example does not load: " }).waitFor();
    await page.locator(".live-hint", { hasText: "This example does not start: broken on purpose" }).waitFor();
  },

  // Every page of the book, at two widths, light and dark: nothing wider than the screen, nothing
  // from elsewhere, every control labelled, no stream before a button is pressed.
  async pages() {
    const page = await open(url);
    const links = await page.locator(".sidebar a[href]").evaluateAll((all) => all.map((a) => a.href.split("#")[0]));
    const addresses = [...new Set([url, new URL("/live/", url).href, ...links])];
    assert.ok(addresses.length > 3, `only ${addresses}`);
    const streams = [];
    context.on("response", (response) => {
      if (/text\/event-stream/.test(response.headers()["content-type"] ?? "")) streams.push(response.url());
    });
    for (const [theme, colorScheme] of [["light", "light"], ["navy", "dark"]]) {
      await page.evaluate((name) => localStorage.setItem("mdbook-theme", name), theme);
      await page.emulateMedia({ colorScheme });
      for (const width of [1280, 390]) {
        await page.setViewportSize({ width, height: 900 });
        for (const address of addresses) {
          const where = `${address} (${theme}, ${width} px)`;
          assert.equal((await page.goto(address)).status(), 200, where);
          const examples = await page.locator("[data-live]").count();
          for (let n = 0; n < examples; n += 1) await page.locator("[data-live]").nth(n).locator(".live-panel button").first().waitFor();
          assert.equal(await page.locator(".live-hint").count(), 0, where);
          const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
          assert.ok(wider <= 0, `${where} is ${wider} px wider than the screen`);
          const nameless = await page.locator(".live-panel :is(button, input, select, textarea)").evaluateAll((all) =>
            all.filter((e) => !(e.textContent.trim() || e.labels?.[0]?.textContent.trim() || e.ariaLabel)).map((e) => e.outerHTML),
          );
          assert.deepEqual(nameless, [], where);
        }
      }
    }
    assert.deepEqual(streams, [], "a stream opened before its reader asked for it");
  },
};

try {
  await scenarios[scenario]();
  assert.deepEqual(foreign, [], "requests to other hosts");
  assert.deepEqual(exceptions, [], "exceptions");
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
