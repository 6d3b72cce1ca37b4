// llm/render-markdown: turns untrusted HTML into DOM nodes that do nothing without a click and a confirmation.
//
// Use it for the answer of a model: for one that is being written, `llm/stream-markdown.ts` on top. Needs no other file;
// `toHtml` is your Markdown library.
// Guarantee: only the elements below and checked values of the attributes; no request to a host that the model chose; nodes that have
// not changed stay, with the reader's selection and focus. A Content-Security-Policy (`img-src 'self'; script-src 'self'`) is needed
// in addition, not instead.

// ANCHOR: policy
/** `open`: an ordinary link. `confirm`: a button that shows the complete address first. `text`: not clickable, with its address. */
export type LinkPolicy = (url: URL) => "open" | "confirm" | "text";

/** Even a link to your own host acts in the user's name: `[Continue](/logout)`. Allow the ones that you know. */
export const confirmAll: LinkPolicy = () => "confirm";

export function renderMarkdown(
  element: Element,
  markdown: string,
  toHtml: (markdown: string) => string,
  links: LinkPolicy = confirmAll,
): void {
  patchChildren(element, [...safeNodes(toHtml(markdown), links).childNodes]);
}
// ANCHOR_END: policy

// ANCHOR: safe
const ALLOWED = new Set(
  "A B BLOCKQUOTE BR CODE DEL EM H1 H2 H3 H4 H5 H6 HR I LI OL P PRE S STRONG TABLE TBODY TD TH THEAD TR UL".split(" "),
);
/** Their text is not text for a reader. */
const DROPPED = new Set("SCRIPT STYLE TEMPLATE TITLE IFRAME OBJECT SVG MATH NOSCRIPT TEXTAREA".split(" "));

/** The allowed part of `html`, copied. An image becomes its alternative text: it is a request that is sent without a click. */
export function safeNodes(html: string, links: LinkPolicy): DocumentFragment {
  // Its document has no browsing context: nothing in it runs or loads.
  const parsed = new DOMParser().parseFromString(html, "text/html");
  const fragment = document.createDocumentFragment();
  copyChildren(parsed.body, fragment, links);
  return fragment; // nodes, not a string: HTML that is serialized and parsed again can change its meaning
}

function copyChildren(from: Node, to: Node, links: LinkPolicy): void {
  for (const node of from.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) to.appendChild(document.createTextNode(node.nodeValue ?? ""));
    else if (node.nodeType === Node.ELEMENT_NODE) copyElement(node as Element, to, links);
  }
}

function copyElement(element: Element, to: Node, links: LinkPolicy): void {
  const name = element.tagName.toUpperCase();
  if (DROPPED.has(name)) return;
  if (name === "IMG") {
    to.appendChild(document.createTextNode(`[image: ${element.getAttribute("alt") ?? ""}]`));
  } else if (name === "INPUT" && element.getAttribute("type") === "checkbox") {
    to.appendChild(document.createTextNode(element.hasAttribute("checked") ? "☑ " : "☐ "));
  } else if (name === "A") {
    copyLink(element, to, links);
  } else if (ALLOWED.has(name)) {
    to.appendChild(copyAllowed(name, element, links));
  } else {
    copyChildren(element, to, links);
  }
}

function copyAllowed(name: string, element: Element, links: LinkPolicy): HTMLElement {
  const copy = document.createElement(name);
  const start = element.getAttribute("start") ?? "";
  if (name === "OL" && /^\d{1,9}$/.test(start)) copy.setAttribute("start", start);
  const language = /^language-[\w+#.-]{1,40}$/.exec(element.getAttribute("class") ?? "");
  if (name === "CODE" && language !== null) copy.className = language[0]; // for a highlighter
  copyChildren(element, copy, links);
  return copy;
}

function copyLink(element: Element, to: Node, links: LinkPolicy): void {
  const href = element.getAttribute("href") ?? "";
  const url = URL.canParse(href, document.baseURI) ? new URL(href, document.baseURI) : undefined;
  const policy = url !== undefined && /^https?:$/.test(url.protocol) ? links(url) : "text";
  if (policy === "text" || url === undefined) {
    copyChildren(element, to, links);
    to.appendChild(document.createTextNode(` (${href})`));
    return;
  }
  const link = document.createElement(policy === "open" ? "a" : "button");
  if (link instanceof HTMLAnchorElement) {
    link.href = url.href;
    link.rel = "noopener noreferrer";
  } else {
    // No `href`: browsers resolve the host names of links before any click.
    link.type = "button";
    link.title = url.href;
    link.onclick = openConfirmed;
  }
  copyChildren(element, link, links);
  to.appendChild(link);
}

function openConfirmed(event: Event): void {
  const address = (event.currentTarget as HTMLButtonElement).title;
  if (confirm(`Open this address?\n\n${address}`)) open(address, "_blank", "noopener,noreferrer");
}
// ANCHOR_END: safe

// ANCHOR: patch
/** Makes the children of `parent` from the `from`th on equal to `wanted`. Nodes that are alike stay: a selection in them survives. */
export function patchChildren(parent: Node, wanted: readonly ChildNode[], from = 0): void {
  for (const [at, node] of wanted.entries()) {
    const old = parent.childNodes[from + at];
    if (old === undefined) parent.appendChild(node);
    else if (!patch(old, node)) parent.replaceChild(node, old);
  }
  while (parent.childNodes.length > from + wanted.length) parent.lastChild!.remove();
}

function patch(old: ChildNode, wanted: ChildNode): boolean {
  if (old instanceof Text && wanted instanceof Text) {
    // Appended, not set: setting the data of a text node collapses a selection in it.
    if (wanted.data.startsWith(old.data)) old.appendData(wanted.data.slice(old.data.length));
    else old.data = wanted.data;
    return true;
  }
  if (
    !(old instanceof HTMLElement) ||
    !(wanted instanceof HTMLElement) ||
    !old.cloneNode(false).isEqualNode(wanted.cloneNode(false))
  )
    return false;
  patchChildren(old, [...wanted.childNodes]);
  return true;
}
// ANCHOR_END: patch
