// llm/render-markdown: the text of a model as DOM nodes that can do nothing.
//
// Use it for every frame of a streamed answer, with all of the text so far: HTML that is cut in two is
// harmless in each half. `toHtml` is your Markdown library; what it returns is not trusted.
// Promise: only the elements below, no attribute but a checked `href`, no request to a host that the model chose.
// A Content-Security-Policy (`img-src 'self'; script-src 'self'`) stands behind it, not instead of it.

// ANCHOR: render
const ALLOWED = new Set(
  "A B BLOCKQUOTE BR CODE DEL EM H1 H2 H3 H4 H5 H6 HR I LI OL P PRE S STRONG TABLE TBODY TD TH THEAD TR UL".split(" "),
);
/** Their text is no text for a reader. */
const DROPPED = new Set("SCRIPT STYLE TEMPLATE TITLE IFRAME OBJECT SVG MATH NOSCRIPT TEXTAREA".split(" "));

/**
 * Shows `markdown` in `element`. An image is a request with whatever the model put into its address, sent without a click:
 * it becomes its alternative text. A link to another host than `linkHosts` becomes text with its address in full.
 */
export function renderMarkdown(
  element: Element,
  markdown: string,
  toHtml: (markdown: string) => string,
  linkHosts: ReadonlySet<string> = new Set([location.host]),
): void {
  // Its document has no browsing context: nothing in it runs or loads.
  const parsed = new DOMParser().parseFromString(toHtml(markdown), "text/html");
  const fragment = document.createDocumentFragment();
  copyChildren(parsed.body, fragment, linkHosts);
  // Nodes, not a string: what is serialised and parsed again can change its meaning.
  element.replaceChildren(fragment);
}

function copyChildren(from: Node, to: Node, linkHosts: ReadonlySet<string>): void {
  for (const node of from.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) {
      to.appendChild(document.createTextNode(node.nodeValue ?? ""));
    } else if (node.nodeType === Node.ELEMENT_NODE) {
      copyElement(node as Element, to, linkHosts);
    }
  }
}

function copyElement(element: Element, to: Node, linkHosts: ReadonlySet<string>): void {
  const name = element.tagName.toUpperCase();
  if (DROPPED.has(name)) return;
  if (name === "IMG") {
    to.appendChild(document.createTextNode(`[image: ${element.getAttribute("alt") ?? ""}]`));
    return;
  }
  if (!ALLOWED.has(name)) {
    copyChildren(element, to, linkHosts);
    return;
  }
  if (name !== "A") {
    const copy = document.createElement(name);
    copyChildren(element, copy, linkHosts);
    to.appendChild(copy);
    return;
  }
  const href = element.getAttribute("href") ?? "";
  const url = URL.parse(href, document.baseURI);
  if (url !== null && /^https?:$/.test(url.protocol) && linkHosts.has(url.host)) {
    const link = document.createElement("a");
    link.href = url.href;
    link.rel = "noopener noreferrer";
    copyChildren(element, link, linkHosts);
    to.appendChild(link);
  } else {
    copyChildren(element, to, linkHosts);
    to.appendChild(document.createTextNode(` (${href})`));
  }
}
// ANCHOR_END: render
