// Loaded by every page of the book. Fills each `<div data-live="topic-pattern"></div>` with the live
// example `/live-js/topic-pattern.js`, an ES module:
//
//   import { panel } from "./panel.js";
//   export default function mount(element, base) { … }   // base: "/live/topic"
//
// A mounted example opens no connection until its reader presses a button: six streams to one
// origin block every other request of an HTTP/1.1 browser. Where the book is served without the
// program (a static copy, a file), a hint stands in its place.
(() => {
  async function fill(element) {
    const name = element.dataset.live;
    if (!/^[a-z]+-[a-z0-9-]+$/.test(name)) {
      return hint(element, `“${name}” is not the name of a live example.`);
    }
    const base = `/live/${name.slice(0, name.indexOf("-"))}`;
    let module;
    try {
      module = await import(new URL(`/live-js/${name}.js`, location.href).href);
    } catch (error) {
      return hint(element, (await served()) ? `This example does not load: ${error.message}` : null);
    }
    try {
      await module.default(element, base);
    } catch (error) {
      console.error(error);
      hint(element, `This example does not start: ${error.message}`);
    }
  }

  // Whether this page comes from the program.
  async function served() {
    try {
      return (await fetch("/live-js/live.js", { method: "HEAD" })).ok;
    } catch {
      return false;
    }
  }

  function hint(element, text) {
    const paragraph = document.createElement("p");
    paragraph.className = "live-hint";
    if (text === null) {
      const command = document.createElement("code");
      command.textContent = "cargo run";
      paragraph.append(
        "This example runs when the program serves the book: start it with ",
        command,
        " in the folder of the pack.",
      );
    } else {
      paragraph.append(text);
    }
    element.replaceChildren(paragraph);
  }

  function start() {
    // print.html repeats every chapter.
    if (/\/print(?:\.html)?$/.test(location.pathname)) return;
    for (const link of document.querySelectorAll("a[data-example]")) link.hash = `live-${link.dataset.example}`;
    for (const element of document.querySelectorAll("[data-live]")) {
      element.id = `live-${element.dataset.live}`;
      void fill(element).then(() => {
        // A link from the page of all examples: the browser looked for the anchor before there was one.
        if (location.hash === `#${element.id}`) element.scrollIntoView();
      });
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
