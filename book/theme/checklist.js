// The filter of the checklist's page. Without it, the page shows every item.
(() => {
  function start() {
    const title = document.querySelector("main > #checklist");
    const first = document.querySelector("main > h2");
    if (!title || !first) return;
    const rows = [...document.querySelectorAll("main tbody tr")].filter((row) => row.cells.length === 5);
    const text = (row, column) => row.cells[column].textContent.trim();

    const box = document.createElement("div");
    box.className = "checklist-filter";
    const select = (label, options) => {
      const wrapper = document.createElement("label");
      const element = document.createElement("select");
      for (const option of options) element.append(new Option(option));
      element.addEventListener("change", show);
      wrapper.append(label, element);
      box.append(wrapper);
      return element;
    };
    const endpoints = [...new Set(rows.flatMap((row) => text(row, 1).split(", ")))].filter(
      (name) => name !== "every server",
    );
    const endpoint = select("Show the items of", ["all endpoints", ...endpoints]);
    const verify = select("verified by", ["probe or review", "probe", "review"]);
    const count = document.createElement("span");
    count.setAttribute("role", "status");
    box.append(count);
    first.before(box);

    function show() {
      let shown = 0;
      for (const row of rows) {
        const names = text(row, 1).split(", ");
        const concerns =
          endpoint.selectedIndex === 0 ||
          names.includes(endpoint.value) ||
          (names.includes("every server") && /(server|relay)$/.test(endpoint.value));
        row.hidden = !concerns || (verify.selectedIndex > 0 && text(row, 4) !== verify.value);
        shown += row.hidden ? 0 : 1;
      }
      // A group without items has no heading either.
      for (const heading of document.querySelectorAll("main > h2")) {
        const table = heading.nextElementSibling;
        const empty = !table?.querySelector("tbody tr:not([hidden])");
        heading.hidden = empty;
        if (table) table.hidden = empty;
      }
      count.textContent = `${shown} of ${rows.length} items`;
    }
    show();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
