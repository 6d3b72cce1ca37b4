// Names in code are not broken in the middle: not at the hyphens of an id, and only after `_` and `::` in the name of a test.
(() => {
  function start() {
    for (const code of document.querySelectorAll("main :not(pre) > code")) {
      const text = code.textContent;
      if (/\s/.test(text)) continue;
      if (text.length <= 36) code.classList.add("whole");
      else code.replaceChildren(...text.split(/(?<=_|::)/).flatMap((part) => [part, document.createElement("wbr")]));
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
