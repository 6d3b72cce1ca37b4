// A job of six seconds. The connection can be cut while it runs; at the end the page closes or,
// when it forgets to, is stopped by the server's 204.
import { onLeave, panel } from "./panel.js";

export default function mount(element, base) {
  const p = panel(element, "Progress of a job");
  let source;

  function close(state, text) {
    source?.close();
    source = undefined;
    if (state) p.status(state, text);
  }

  p.button("Start a job", async () => {
    close();
    p.clear();
    p.status("waiting", "starting");
    const response = await fetch(`${base}/serve/jobs`, { method: "POST" });
    if (!response.ok) throw new Error(`start: status ${response.status}`);
    const { id } = await response.json();
    const own = (source = new EventSource(`${base}/serve/jobs/${id}/events`));
    own.onopen = () => p.status("open", "connected");
    own.onerror = () => {
      if (source !== own) return;
      if (own.readyState === EventSource.CLOSED) close("done", "stopped by 204");
      else p.status("waiting", "lost: EventSource comes back by itself");
    };
    own.addEventListener("progress", (event) => {
      p.log("progress", { id: event.lastEventId, text: event.data });
    });
    own.addEventListener("done", (event) => {
      p.log("done", { id: event.lastEventId, text: event.data, kind: "good" });
      if (forget.checked) p.note("not closed: to EventSource, the end of the response is a lost connection");
      else close("done", "closed by the page");
    });
    for (const name of ["failed", "stream_error"]) {
      own.addEventListener(name, (event) => {
        p.log(name, { text: event.data, kind: "failed" });
        close("failed", "the job failed");
      });
    }
    own.addEventListener("restart", () => p.note("the server is about to restart"));
  });
  p.button("Cut", () => p.cut(base, `${base}/serve`));
  const forget = p.field("forget to close at the end", { type: "checkbox" });
  onLeave(() => close());
}
