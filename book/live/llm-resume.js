// A generation that goes on while nobody reads: cut its stream, come back with the last event id.
import { onLeave, panel } from "./panel.js";

export default function mount(element, base) {
  const p = panel(element, "An answer that survives its connection");
  let key;
  let source;
  let lastId = "";

  const answer = document.createElement("p");
  answer.setAttribute("aria-live", "polite");
  answer.style.minHeight = "5em";
  p.controls.after(answer);

  function close(state, text) {
    source?.close();
    source = undefined;
    if (state) p.status(state, text);
  }

  /** Follows the generation from `lastId`; EventSource comes back by itself after a cut. */
  function follow() {
    close();
    const url = new URL(`${base}/resumable/generations/${key}`, location.href);
    if (lastId) url.searchParams.set("lastEventId", lastId);
    const own = (source = new EventSource(url));
    own.onopen = () => p.status("open", "reading");
    own.onerror = () => {
      if (source !== own) return;
      if (own.readyState === EventSource.CLOSED) close("idle", "nothing more to read");
      else p.status("waiting", "lost: EventSource comes back with the last event id");
    };
    own.addEventListener("text", (event) => {
      lastId = event.lastEventId;
      answer.append(JSON.parse(event.data).text);
    });
    for (const name of ["done", "failed"]) {
      own.addEventListener(name, (event) => {
        lastId = event.lastEventId;
        p.log(name, { id: event.lastEventId.slice(-8), text: event.data, kind: name === "done" ? "good" : "failed" });
        close(name === "done" ? "done" : "failed", name);
      });
    }
  }

  p.button("Ask", async () => {
    close("waiting", "asking");
    p.clear();
    answer.replaceChildren();
    key = crypto.randomUUID(); // one key for one question
    lastId = "";
    const begin = () =>
      fetch(`${base}/resumable/generations`, {
        method: "POST",
        headers: { "content-type": "application/json", "idempotency-key": key },
        body: JSON.stringify({ messages: [{ role: "user", content: "What ends a stream?" }] }),
      });
    // Posted twice on purpose: the second joins the first.
    const [first, second] = await Promise.all([begin(), begin()]);
    for (const response of [first, second]) {
      if (!response.ok) throw new Error(`status ${response.status}`);
      await response.body.cancel(); // followed by GET, which may be repeated
    }
    p.note("posted twice with one key: one generation");
    follow();
  });
  p.button("Cut", () => p.cut(base, `${base}/resumable`));
  p.button("Leave for 2 s", async () => {
    if (!source) return p.note("nothing is being read");
    close("waiting", "nobody reads; the model goes on");
    await new Promise((resolve) => setTimeout(resolve, 2000));
    follow();
  });
  p.button("Stop", async () => {
    if (!key) return p.note("nothing to stop");
    const response = await fetch(`${base}/resumable/generations/${key}`, { method: "DELETE" });
    p.note(`DELETE: status ${response.status}`);
  });
  onLeave(() => close("idle", "left"));
}
