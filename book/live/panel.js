// What the live examples share: a panel with buttons, a status line and a log of events.
//
//   const p = panel(element, "Resume after a cut");
//   const start = p.button("Start", () => { … });
//   const count = p.field("Events", { type: "number", value: 20, min: 1, max: 200 });
//   p.status("open", "connected");            // "idle" | "waiting" | "open" | "done" | "failed"
//   p.log("tick", { id: "7", text: "…" });    // text from a server is never read as HTML
//   p.note("cut by the server");              // a line of the panel's own, set apart from events
//   const n = await p.cut(base);              // POST base/cut: breaks this browser's streams for real

/** Lines that a log keeps; older ones go. */
const MAX_LINES = 200;

/** Fills `element` with an empty panel. */
export function panel(element, title) {
  element.replaceChildren();
  const root = make("section", "live-panel", element);
  root.setAttribute("aria-label", `Live example: ${title}`);
  const head = make("div", "live-head", root);
  make("strong", "live-title", head).textContent = title;
  const status = make("span", "live-status", head);
  status.setAttribute("role", "status");
  const controls = make("div", "live-controls", root);
  const list = make("ol", "live-log", root);
  list.setAttribute("role", "log");
  list.setAttribute("aria-live", "polite");
  list.setAttribute("aria-label", "Events");
  list.tabIndex = 0; // a list that scrolls must be reachable by keyboard

  function line(kind, parts) {
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    const item = make("li", kind, list);
    for (const [part, text] of parts) {
      if (text === undefined || text === "") continue;
      if (item.childElementCount > 0) item.append(" "); // for copies and screen readers
      make("span", part, item).textContent = String(text);
    }
    while (list.childElementCount > MAX_LINES) list.firstElementChild.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
    return item;
  }

  const self = {
    /** The panel's own elements, for what the helpers do not cover. */
    root,
    controls,

    /** A button; `action` may be async, and the button rests until it has ended. */
    button(label, action) {
      const button = make("button", "live-button", controls);
      button.type = "button";
      button.textContent = label;
      button.addEventListener("click", async () => {
        // aria-disabled, not disabled: a button that loses focus loses the keyboard's place.
        if (button.getAttribute("aria-disabled") === "true") return;
        button.setAttribute("aria-disabled", "true");
        try {
          await action();
        } catch (error) {
          self.note(`failed: ${error.message}`, "failed");
        } finally {
          button.removeAttribute("aria-disabled");
        }
      });
      return button;
    },

    /** An input with its label. */
    field(label, attributes = {}) {
      const wrapper = make("label", "live-field", controls);
      wrapper.append(label);
      return Object.assign(make("input", "", wrapper), attributes);
    },

    /** The state of the connection, and a few words on it. */
    status(state, text = state) {
      status.dataset.state = state;
      status.textContent = text;
    },

    /** One event: its name, its id, its text; `kind` colours it ("event", "good", "failed"). */
    log(name, { id, text, kind = "event" } = {}) {
      return line(kind, [
        ["live-name", name],
        ["live-id", id === undefined ? id : `id ${id}`],
        ["live-text", text],
      ]);
    },

    /** A line of the panel's own. */
    note(text, kind = "note") {
      return line(kind, [["live-text", text]]);
    },

    clear() {
      list.replaceChildren();
    },

    /**
     * Breaks this browser's open streams under `base` from the server's side, without an end in
     * band; `path` narrows it to the streams below that path. Returns how many there were.
     */
    async cut(base, path = "") {
      const response = await fetch(`${base}/cut?path=${encodeURIComponent(path)}`, { method: "POST" });
      if (!response.ok) throw new Error(`cut: status ${response.status}`);
      const { cut } = await response.json();
      self.note(
        cut === 0 ? "nothing to cut: no stream is open" : `cut by the server (${cut} stream${cut === 1 ? "" : "s"})`,
      );
      return cut;
    },
  };
  self.status("idle", "not started");
  return self;
}

/** Calls `close` when the page goes away, also into the back/forward cache. */
export function onLeave(close) {
  addEventListener("pagehide", close);
}

function make(tag, className, parent) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  parent.append(element);
  return element;
}
