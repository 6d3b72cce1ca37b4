// A page of the shared Chromium, with patterns bundled into it.
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, inject } from "vitest";

let browser: Promise<Browser> | undefined;
const contexts: BrowserContext[] = [];

/** A context of its own (cookies, storage and connection limits are not shared with other tests). */
export async function newContext(): Promise<BrowserContext> {
  browser ??= chromium.connect(inject("browser"));
  const context = await (await browser).newContext();
  // Playwright would give up after 30 s, which a busy machine needs for a click; the test's own timeout ends a hang.
  context.setDefaultTimeout(0);
  contexts.push(context);
  return context;
}

/** A page at `origin` (a test server that answers `/` with an empty page). */
export async function openPage(origin: string, context?: BrowserContext): Promise<Page> {
  const page = await (context ?? (await newContext())).newPage();
  await page.goto(`${origin}/`);
  return page;
}

/** Bundles `file` (below `src/` or a path from `test/`) and puts its exports into `window.pattern`. */
export async function load(page: Page, ...files: string[]): Promise<void> {
  for (const file of files) await page.addScriptTag({ content: await bundle(file) });
}

const bundles = new Map<string, Promise<string>>();

/** The bundle of one file: its exports are merged into `window.pattern`. */
export function bundle(file: string): Promise<string> {
  let found = bundles.get(file);
  if (found === undefined) {
    const root = fileURLToPath(new URL(file.startsWith("test/") ? "../../" : "../../src/", import.meta.url));
    found = esbuild
      .build({
        stdin: {
          contents: `import * as it from "./${file}"; Object.assign((window.pattern ??= {}), it);`,
          resolveDir: root,
        },
        bundle: true,
        write: false,
        format: "iife",
        jsx: "automatic",
        define: { "process.env.NODE_ENV": '"development"' },
        logLevel: "error",
      })
      .then((result) => result.outputFiles[0]!.text);
    bundles.set(file, found);
  }
  return found;
}

afterAll(async () => {
  for (const context of contexts.splice(0)) await context.close();
  if (browser !== undefined) await (await browser).close();
  browser = undefined;
});
