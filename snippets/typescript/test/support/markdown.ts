// The Markdown library of the tests.
import { marked } from "marked";

export function toHtml(markdown: string): string {
  return marked.parse(markdown, { async: false });
}

/** Its top-level blocks; joined they are the text. */
export function toBlocks(markdown: string): string[] {
  return marked.lexer(markdown).map(({ raw }) => raw);
}
