// The Markdown library of the tests.
import { marked } from "marked";

export function toHtml(markdown: string): string {
  return marked.parse(markdown, { async: false });
}
