// llm/stream-markdown: renders Markdown while it is written; a frame parses only the last blocks.
//
// Use it for the answer of a model, with all of the text so far in each frame. Needs `llm/render-markdown.ts`; `toHtml` and
// `toBlocks` are your Markdown library (with marked: `marked.parse`, and the `raw` of each token of `marked.lexer`).
// Guarantee: blocks that are complete are not parsed or touched again; a marker without its end is not shown as text; after
// `finish` the nodes are those of the complete text.

// ANCHOR: view
import { confirmAll, type LinkPolicy, patchChildren, safeNodes } from "./render-markdown.ts";

export interface MarkdownOptions {
  toHtml: (markdown: string) => string;
  /** Splits into top-level blocks; joined, they are the text. */
  toBlocks: (markdown: string) => string[];
  links?: LinkPolicy;
}

export class MarkdownView {
  readonly #element: Element;
  readonly #options: MarkdownOptions;
  /** The text whose nodes are final, and how many nodes these are. */
  #settled = "";
  #nodes = 0;

  constructor(element: Element, options: MarkdownOptions) {
    this.#element = element;
    this.#options = options;
  }

  /** All of the text so far. */
  show(text: string): void {
    if (!text.startsWith(this.#settled)) {
      this.#settled = ""; // another answer
      this.#nodes = 0;
    }
    const blocks = this.#options.toBlocks(text.slice(this.#settled.length));
    const content = blocks.flatMap((block, at) => (block.trim() === "" ? [] : [at]));
    // The last block grows, and may turn out to belong to the one before it ("2" after a list with "1.").
    const stable = blocks.slice(0, content.at(-2) ?? 0).join("");
    const nodes = this.#safe(stable);
    const rest = this.#safe(completeMarkdown(blocks.join("").slice(stable.length)));
    patchChildren(this.#element, [...nodes, ...rest], this.#nodes);
    this.#settled += stable;
    this.#nodes += nodes.length;
  }

  /** The complete text, in one piece: reference links that are defined at its end work now. */
  finish(text: string): void {
    patchChildren(this.#element, this.#safe(text));
    this.#settled = text;
    this.#nodes = this.#element.childNodes.length;
  }

  #safe(markdown: string): ChildNode[] {
    return markdown === ""
      ? []
      : [...safeNodes(this.#options.toHtml(markdown), this.#options.links ?? confirmAll).childNodes];
  }
}
// ANCHOR_END: view

// ANCHOR: complete
/** Ends what the last block has begun, so that it is shown as it will be: emphasis and code are closed, half a link is its text. */
export function completeMarkdown(markdown: string): string {
  const start = markdown.search(/(?:^|\n)[^\n]*$/);
  // Inside a fence everything is text; the parser ends it.
  if ((markdown.match(/^ {0,3}(`{3,}|~{3,})/gm)?.length ?? 0) % 2 === 1) return markdown;
  const text = markdown
    .replace(/\n[ \t]*[-=]+[ \t]*$/, "") // would make a heading of the line before
    .replace(/!\[[^\]\n]*(\]\([^)\n]*)?$/, "")
    .replace(/\[([^\]\n]*)(\](\([^)\n]*)?)?$/, "$1")
    .replace(/<[a-z/!][^>\n]*$/i, "");
  const line = text.slice(Math.max(start, 0)).replace(/^\n?[ \t]*[*+-][ \t]/, ""); // not the marker of a list
  if (line.replace(/``/g, "").split("`").length % 2 === 0) {
    return text.endsWith("`") ? text.slice(0, -1) : `${text}\``;
  }
  const bare = line.replace(/`[^`]*`/g, "");
  for (const marker of ["**", "__", "~~"]) {
    if (bare.split(marker).length % 2 === 1) continue;
    if (text.endsWith(marker)) return text.slice(0, -2);
    return text.endsWith(marker[0]!) ? text + marker[0] : text.trimEnd() + marker;
  }
  if (bare.replaceAll("**", "").split("*").length % 2 === 1) return text;
  return text.endsWith("*") ? text.slice(0, -1) : `${text.trimEnd()}*`;
}
// ANCHOR_END: complete
