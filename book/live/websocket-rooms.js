// One room whose history keeps eight events. Cut the connection, publish from a second one while it is down, and watch what
// the room replays, or that it says `reset`.
import { onLeave, panel } from "./panel.js";

export default function mount(element, base) {
  const p = panel(element, "Rooms: resume after a cut");
  const url = Object.assign(new URL(`${base}/rooms`, location.href), {
    protocol: location.protocol.replace("http", "ws"),
  });
  // A room of this page's own: two readers do not disturb each other.
  const room = `demo ${crypto.randomUUID?.() ?? Math.random()}`;
  let socket;
  let cursor;
  let id = 0;

  function open(onMessage) {
    const own = new WebSocket(url, "rooms.v1");
    own.onmessage = (event) => onMessage(JSON.parse(event.data));
    return own;
  }

  function seen(event) {
    if (event.seq <= cursor.seq) return;
    cursor.seq = event.seq;
    p.log(event.type, { id: String(event.seq), text: event.data ?? event.user });
  }

  function connect() {
    socket?.close();
    p.status("waiting", "connecting");
    const own = (socket = open((message) => {
      if (own !== socket) return; // an earlier connection
      if (message.type === "joined" || message.type === "reset") {
        const first = cursor === undefined;
        if (message.type === "reset")
          p.log("reset", { text: "the room has forgotten what you missed: load a snapshot", kind: "failed" });
        if (first || message.type === "reset") cursor = { epoch: message.epoch, seq: message.seq };
        if (!first && message.type === "joined") p.note(`resumed after ${cursor.seq}`);
        p.status("open", "in the room");
      } else if (message.type === "gap") {
        p.log("gap", { id: `${message.from}–${message.to}`, text: "dropped: this page was too slow", kind: "failed" });
      } else if (message.seq && message.type !== "ack") {
        seen(message);
      } else if (message.type === "error") {
        p.note(`refused: ${message.code}`, "failed");
      }
    }));
    own.onopen = () => own.send(JSON.stringify({ type: "join", room, resume: cursor ?? null }));
    own.onclose = (event) => {
      if (own === socket) p.status("failed", `closed: ${event.code} ${event.reason}`);
    };
  }

  /** From a connection of its own, as somebody else would. */
  function publish(count) {
    return new Promise((resolve, reject) => {
      let acks = 0;
      const other = open((message) => {
        if (message.type === "joined") {
          for (let n = 0; n < count; n++) {
            other.send(JSON.stringify({ type: "publish", id: `${Date.now()}-${id++}`, room, data: `hello ${id}` }));
          }
        } else if (message.type === "ack" && ++acks === count) {
          other.close(1000);
          resolve();
        } else if (message.type === "error") {
          reject(new Error(message.code));
        }
      });
      other.onopen = () => other.send(JSON.stringify({ type: "join", room, resume: null }));
      other.onerror = () => reject(new Error("no connection"));
    });
  }

  const awayFor = (count) => async () => {
    if (cursor === undefined) return p.note("join first");
    socket = undefined;
    await p.cut(base, `${base}/rooms`);
    p.status("waiting", "cut off by the server");
    await publish(count);
    p.note(`${count} published meanwhile; the room keeps 8 events`);
    connect();
  };

  p.button("Join", connect);
  p.button("Somebody publishes", async () => {
    if (cursor === undefined) return p.note("join first");
    await publish(1);
  });
  p.button("Cut, publish 2", awayFor(2));
  p.button("Cut, publish 12", awayFor(12));
  onLeave(() => {
    const gone = socket;
    socket = undefined;
    gone?.close();
  });
}
