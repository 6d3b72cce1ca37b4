// A log of eight events. Cut the connection, publish while it is down, and watch what the server
// replays. EventSource does the reconnecting; nothing here keeps a cursor.
import { onLeave, panel } from "./panel.js";

// The epoch stays the same for the life of the log: the number behind it is what changes.
const short = (id) => id.replace(/^.*-/, "…-");

export default function mount(element, base) {
  const p = panel(element, "Replay after a cut");
  let source;

  function close() {
    source?.close();
    source = undefined;
  }

  async function publish(count) {
    const response = await fetch(`${base}/resume/publish?count=${count}`, { method: "POST" });
    if (!response.ok) throw new Error(`publish: status ${response.status}`);
  }

  function connect() {
    close();
    p.clear();
    p.status("waiting", "connecting");
    const own = (source = new EventSource(`${base}/resume/events`));
    own.onopen = () => p.status("open", "connected");
    own.onerror = () => {
      if (own.readyState === EventSource.CLOSED) p.status("failed", "refused: EventSource gives up");
      else p.status("waiting", "lost: reconnects with Last-Event-ID");
    };
    own.addEventListener("line", (event) => {
      p.log("line", { id: short(event.lastEventId), text: JSON.parse(event.data).text });
    });
    own.addEventListener("reset", (event) => {
      const text = `${JSON.parse(event.data).reason}: what follows does not continue what you have`;
      p.log("reset", { id: short(event.lastEventId), text, kind: "failed" });
    });
    own.addEventListener("restart", () => p.note("the server is about to restart"));
  }

  // Published at once, before EventSource has waited out its `retry` of more than a second.
  const cutAndPublish = (count) => async () => {
    await p.cut(base, `${base}/resume`);
    await publish(count);
    p.note(`${count} published meanwhile; the log keeps 8`);
  };

  p.button("Connect", connect);
  p.button("Publish one", () => publish(1));
  p.button("Cut, publish 3", cutAndPublish(3));
  p.button("Cut, publish 20", cutAndPublish(20));
  onLeave(close);
}
