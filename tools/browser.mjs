// Drives a real Chromium for tests/browser.rs: node browser.mjs SCENARIO URL
// Passes silently; a failed expectation is an exception and exit code 1.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { browserArguments, chromiumPath } from "./testkit.mjs";

const PATIENCE = 240_000;
const [scenario, url] = process.argv.slice(2);

const profile = mkdtempSync(join(tmpdir(), "browser-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: chromiumPath(),
  args: browserArguments,
  timeout: PATIENCE,
});
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
/** What the pages complain of: a script or an image that is not there, a violation of a policy. */
const complaints = [];
context.on("console", (message) => {
  if (message.type() === "error") complaints.push(`${message.location().url}: ${message.text()}`);
});

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

const ids = (lines, name) =>
  lines.flatMap((line) => line.match(new RegExp(`^${name} id \\D*(\\d+)`))?.[1] ?? []).map(Number);
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

  // The page /probe: findings of a run, a filter, a chapter, a report, and what is wrong with an argument.
  async probe() {
    const page = await open(url);
    const endpoint = new URL("/live/sse/resume/events", url).href;
    const status = (text) => page.locator("#status", { hasText: text }).waitFor();
    const address = page.getByRole("textbox", { name: "Endpoint" });
    await address.fill("localhost");
    await page.getByRole("button", { name: "Probe" }).click();
    await status("write http://localhost");
    await address.fill(endpoint);
    await page.getByText("Options").click();
    await page.getByLabel("--only").fill("sse-status-200,sse-no-transform,sse-limit-counts-streams");
    assert.equal(await page.getByLabel("--subprotocol").isVisible(), false);
    assert.match(await page.locator("#command").innerText(), /^stream-probe sse http\S+ --only sse-status-200,/);
    await page.getByRole("button", { name: "Probe" }).click();
    await status("2 passed, 0 failed, 0 warnings, 1 could not tell");
    const finding = (id) => page.locator("#findings li", { hasText: id });
    assert.match(await finding("sse-status-200").innerText(), /^passed sse-status-200 .*\n200 after/);
    await page.locator("#filters").getByRole("checkbox", { name: "passed" }).uncheck();
    assert.equal(await finding("sse-status-200").isVisible(), false);
    const limit = finding("sse-limit-counts-streams");
    assert.match(await limit.innerText(), /needs --limit/);
    assert.match(await limit.getByRole("link").getAttribute("href"), /^\/(sse|production)\/[a-z]+\.html$/);
    const json = page.waitForEvent("download");
    await page.getByRole("link", { name: "Report as JSON" }).click();
    const report = JSON.parse(readFileSync(await (await json).path(), "utf8"));
    assert.deepEqual([report.url, report.checks.length], [endpoint, 3]);
  },

  // A reader of the SSE chapters: events with ids, a real cut, what was missed, and a reset.
  async sse() {
    const page = await open(url);
    const job = panelOf(page, "sse-serve");
    await job.press("Start a job");
    await job.line(/^progress id \S+ /);
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

  // An agent: an approval, a decline; with a model that hangs a cut, a reload and Stop; Stop while a tool runs.
  async agent() {
    const page = await open(url);
    const p = panelOf(page, "llm-agents");
    const view = p.root.locator("div[aria-live]");
    const parts = () => view.locator("p").allInnerTexts();
    /** Waits for exactly this text. */
    const text = (expected) =>
      page.waitForFunction(
        (expected) => document.querySelector(".live-panel div[aria-live]")?.textContent === expected,
        expected,
      );
    const last = async () => (await (await page.request.get(new URL("/live/llm/exchanges", url).href)).json())[0];

    await p.press("Ask");
    await p.status("waits for your decision");
    const [answer, ...calls] = await parts();
    assert.deepEqual(calls, [
      'get_weather {"city":"Zürich","days":3}: done {"city":"Zürich","degrees":21}',
      "get_time {}: approval-requested",
    ]);
    await page.reload();
    await p.status("waits for your decision");
    assert.deepEqual(await parts(), [answer, ...calls]);
    await p.press("Approve");
    await p.status("complete");
    const approved = [answer, calls[0], 'get_time {}: done "12:00"', answer];
    assert.deepEqual(await parts(), approved);
    await page.reload();
    await p.status("has ended");
    assert.deepEqual(await parts(), approved);

    await p.press("Ask");
    await p.status("waits for your decision");
    await p.press("Decline");
    await p.status("complete");
    assert.deepEqual(await parts(), [answer, calls[0], "get_time {}: declined", answer]);

    await p.press("Ask, the model hangs");
    const words = answer.match(/\S+ ?/g);
    const half = words.slice(0, words.length / 2).join("");
    await text(half);
    await p.press("Cut");
    await p.line("cut by the server (1 stream)");
    await p.line("attaching again");
    await p.status("answering");
    await text(half);
    await page.reload();
    await p.status("answering");
    await text(half);
    await p.press("Stop");
    await p.status("stopped");
    await text(half);
    assert.equal((await last()).end, "ReaderGone");

    await p.press("Ask, the tool hangs");
    await view.locator("p", { hasText: "get_weather" }).and(page.getByText(": running")).waitFor();
    const { id } = await last();
    await p.press("Stop");
    await p.status("stopped");
    assert.match((await parts())[1], /^get_weather .*: stopped$/);
    assert.equal((await last()).id, id, "the agent asks nothing more");
  },

  // Compression that does not flush, and what stops it; beside it, one slow subscriber among a hundred,
  // which costs the others nothing and loses nothing itself.
  async gzip() {
    const page = await open(url);
    const fan = panelOf(page, "sse-fanout");
    await fan.press("Disconnect");
    const p = panelOf(page, "sse-gzip");
    for (const [button, end] of [
      ["A hop that gzips", "all at once"],
      ["The same, no-transform", "one by one"],
      ["tower-http gzips", "one by one"],
    ]) {
      await p.press(button);
      await p.status(end);
      assert.equal((await p.lines()).filter((line) => line.startsWith("tick ")).length, 10, button);
    }
    await fan.status("Disconnect: over");
    await fan.line(/all others: 80 of 80; the slow one: 80;/);
    await fan.line(/^disconnected/);
    assert.match(await fan.root.locator("label").first().innerText(), /^this page: 80 events/);
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
    for (const [theme, colorScheme] of [
      ["light", "light"],
      ["navy", "dark"],
    ]) {
      await page.evaluate((name) => localStorage.setItem("mdbook-theme", name), theme);
      await page.emulateMedia({ colorScheme });
      for (const address of addresses) {
        assert.equal((await page.goto(address)).status(), 200, address);
        const examples = await page.locator("[data-live]").count();
        for (let n = 0; n < examples; n += 1)
          await page.locator("[data-live]").nth(n).locator(".live-panel button").first().waitFor();
        for (const width of [1280, 390]) {
          await page.setViewportSize({ width, height: 900 });
          const seen = await page.evaluate(() => {
            const outer = (selector, wrong) =>
              [...document.querySelectorAll(selector)].filter(wrong).map((e) => e.outerHTML);
            return {
              hints: outer(".live-hint", () => true),
              wider: Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth),
              nameless: outer(
                ":is(.live-panel, .checklist-filter) :is(button, input, select, textarea)",
                (e) => !(e.textContent.trim() || e.labels?.[0]?.textContent.trim() || e.ariaLabel),
              ),
              // Images without a picture, or without words for it.
              images: outer("main img", (e) => e.alt.trim() === "" || !e.complete || e.naturalWidth === 0),
            };
          });
          assert.deepEqual(
            seen,
            { hints: [], wider: 0, nameless: [], images: [] },
            `${address} (${theme}, ${width} px)`,
          );
        }
      }
    }
    assert.deepEqual(complaints, [], "errors in the console");
    await this.checklist(page);
    await this.search(page);
    // The page that prints the whole book asks for the printer by itself: it must come up, with every chapter.
    await page.addInitScript(() => {
      window.print = () => {};
    });
    assert.equal((await page.goto(new URL("/print.html", url).href)).status(), 200);
    const chapters = await page.locator("main h1").count();
    assert.ok(chapters >= addresses.length - 2, `${chapters} chapters in print.html, ${addresses.length} pages`);
    assert.equal(await page.locator(".live-panel").count(), 0, "no live example on paper");
    assert.deepEqual(streams, [], "a stream opened before its reader asked for it");
  },

  // The checklist: its filter, and paper: one column, nothing of the screen's navigation, a box for each item.
  async checklist(page) {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(new URL("/checklist.html", url).href);
    const rows = page.locator("main tbody tr:visible");
    const all = await rows.count();
    const [endpoint, verify] = [page.getByLabel("Show the items of"), page.getByLabel("verified by")];
    await endpoint.selectOption("SSE client");
    const client = await rows.allInnerTexts();
    assert.ok(client.length > 5 && client.length < all / 4, `${client.length} of ${all}`);
    assert.ok(client.every((row) => row.includes("SSE client")));
    assert.equal(await page.locator("main h2:visible").count(), 1, "no heading above nothing");
    await endpoint.selectOption("SSE server");
    assert.ok((await rows.allInnerTexts()).some((row) => row.includes("every server")));
    await verify.selectOption("probe");
    assert.ok((await rows.allInnerTexts()).every((row) => /probe\s*$/.test(row)));
    await endpoint.selectOption({ index: 0 });
    await verify.selectOption({ index: 0 });
    assert.equal(await rows.count(), all);

    await page.emulateMedia({ media: "print", colorScheme: "light" });
    // A4 without margins, at 96 dots an inch.
    await page.setViewportSize({ width: 718, height: 1000 });
    for (const selector of [".sidebar", ".menu-bar", ".nav-chapters", ".nav-wide-wrapper", ".checklist-filter"]) {
      assert.equal(await page.locator(`${selector}:visible`).count(), 0, `${selector} on paper`);
    }
    const paper = await page.evaluate(() => ({
      wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      lefts: new Set(
        [...document.querySelectorAll("main tbody tr")].map((row) => Math.round(row.getBoundingClientRect().left)),
      ).size,
      box: getComputedStyle(document.querySelector("main tbody td"), "::before").content,
    }));
    assert.deepEqual(paper, { wider: 0, lefts: 1, box: '"☐ "' });
    const pdf = await page.pdf({ format: "A4" });
    assert.equal(pdf.subarray(0, 5).toString(), "%PDF-");
    await page.emulateMedia({ media: "screen" });
  },

  // The search finds a chapter by a word of its text.
  async search(page) {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(url);
    await page.locator("#mdbook-search-toggle").click();
    // It listens for keys.
    await page.locator("#mdbook-searchbar").pressSequentially("presence");
    await page.locator("#mdbook-searchresults a", { hasText: "Rooms" }).first().waitFor();
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
