import { describe, expect, test } from "vitest";
import { completeMarkdown } from "../src/llm/stream-markdown.ts";
import { load, openPage } from "./support/browser.ts";
import { serve } from "./support/server.ts";

declare const pattern: typeof import("../src/llm/stream-markdown.ts") & typeof import("./support/markdown.ts");

const SAMPLE = [
  "# Streams\n\nA *stream* ends **twice**: see `done` and [the docs](https://docs.example/a?b=1).\n\n",
  "1. one\n\n2. two\n   - inner `code`\n\n> quoted **bold**\n> more\n\n",
  "```ts\nconst a = `b`;\n\n**not bold**\n```\n\n| a | b |\n|---|---|\n| 1 | *2* |\n\nText\n---\n\nThe ~~end~~ ![chart](x.png).\n",
].join("");

const opened = async (): Promise<Awaited<ReturnType<typeof openPage>>> => {
  const page = await openPage((await serve({})).origin);
  await load(page, "llm/render-markdown.ts", "llm/stream-markdown.ts", "test/support/markdown.ts");
  return page;
};

describe("MarkdownView in Chromium", () => {
  test("after every cut the finished answer is the one that is rendered at once", async () => {
    const page = await opened();
    const [streamed, once] = await page.evaluate((sample) => {
      const html = (cuts: number[]): string => {
        const element = document.createElement("div");
        const view = new pattern.MarkdownView(element, pattern);
        for (const cut of cuts) view.show(sample.slice(0, cut));
        view.show(sample);
        const shown = element.innerHTML;
        view.finish(sample);
        return `${shown}|${element.innerHTML}`;
      };
      const every = Array.from({ length: sample.length }, (_, at) => at + 1);
      return [html(every), html([])];
    }, SAMPLE);
    expect(streamed).toBe(once);
    const [shown, finished] = once.split("|");
    expect(shown).toBe(finished);
  });

  test("no frame shows a marker that has not ended, or half an address", async () => {
    const page = await opened();
    const bad = await page.evaluate((sample) => {
      const element = document.createElement("div");
      const view = new pattern.MarkdownView(element, pattern);
      const bad: string[] = [];
      for (let cut = 1; cut <= sample.length; cut++) {
        view.show(sample.slice(0, cut));
        for (const code of element.querySelectorAll("pre")) code.textContent = "";
        const text = element.textContent;
        if (/\*\*|~~|\]\(|docs\.example/.test(text)) bad.push(text.slice(-60));
        view.show(""); // the code that this test has emptied
      }
      return bad;
    }, SAMPLE);
    expect(bad).toEqual([]);
  });

  test("a selection, the focus and complete blocks stay while the answer grows", async () => {
    const page = await opened();
    const seen = await page.evaluate(() => {
      const element = document.body.appendChild(document.createElement("div"));
      const view = new pattern.MarkdownView(element, pattern);
      const first = "See [the docs](https://docs.example/).\n\nA **bold** start\n\nThe last block gr";
      view.show(first);
      const button = element.querySelector("button")!;
      button.focus();
      const last = element.lastElementChild!.firstChild!;
      getSelection()!.setBaseAndExtent(last, 0, last, 8);
      const before = [...element.children];
      for (let at = 0; at < 50; at++) view.show(`${first}ows ${"x ".repeat(at)}`);
      return {
        selected: getSelection()!.toString(),
        focused: document.activeElement === button,
        same: before.every((node, at) => element.children[at] === node),
        text: element.lastElementChild!.textContent!.startsWith("The last block grows x x"),
      };
    });
    expect(seen).toEqual({ selected: "The last", focused: true, same: true, text: true });
  });

  test("only the last blocks are given to the parser", async () => {
    const page = await opened();
    const longest = await page.evaluate((sample) => {
      let longest = 0;
      const counted =
        <T>(parse: (markdown: string) => T) =>
        (markdown: string): T => {
          longest = Math.max(longest, markdown.length);
          return parse(markdown);
        };
      const view = new pattern.MarkdownView(document.createElement("div"), {
        toHtml: counted(pattern.toHtml),
        toBlocks: counted(pattern.toBlocks),
      });
      const text = sample.repeat(100);
      for (let cut = 64; cut < text.length; cut += 64) view.show(text.slice(0, cut));
      return longest / sample.length;
    }, SAMPLE);
    expect(longest).toBeLessThan(2); // of 100
  });

  test("reference links that are defined last work when the answer is complete, and another answer replaces it", async () => {
    const page = await opened();
    const [links, replaced] = await page.evaluate(() => {
      const element = document.createElement("div");
      const view = new pattern.MarkdownView(element, pattern);
      const text = "See [one][1].\n\nMore.\n\nEnd.\n\n[1]: https://docs.example/\n";
      view.show(text);
      view.finish(text);
      const links = [...element.querySelectorAll("button")].map(({ title }) => title);
      view.show("Another");
      return [links, element.textContent.trim()];
    });
    expect([links, replaced]).toEqual([["https://docs.example/"], "Another"]);
  });
});

test("completeMarkdown ends what is open and leaves the rest", () => {
  for (const [open, closed] of [
    ["a **bo", "a **bo**"],
    ["a **", "a "],
    ["a `co", "a `co`"],
    ["a *em", "a *em*"],
    ["see [docs](https://exa", "see docs"],
    ["see [do", "see do"],
    ["see [docs](https://example.com)", "see [docs](https://example.com)"],
    ["a ![cha", "a "],
    ["text\n-", "text"],
    ["* item **b", "* item **b**"],
    ["```ts\nlet a = `**", "```ts\nlet a = `**"],
    ["2 * 3", "2 * 3*"],
    ["a <b", "a "],
    ["whole.", "whole."],
  ])
    expect(completeMarkdown(open!), open).toBe(closed);
});
