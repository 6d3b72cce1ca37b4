// A log of eight events. Cut the connection, publish while it is down, and watch what the server
// replays. EventSource does the reconnecting; nothing here keeps a cursor.
export default function mount(element, base) {
  element.innerHTML = `
    <p>
      <button type="button" data-do="connect">Connect</button>
      <button type="button" data-do="publish" disabled>Publish one</button>
      <button type="button" data-do="miss" disabled>Cut, then publish 3</button>
      <button type="button" data-do="trim" disabled>Cut, then publish 20</button>
    </p>
    <ol class="live-log" aria-live="polite"></ol>`;
  const list = element.querySelector("ol");
  const button = (name) => element.querySelector(`[data-do=${name}]`);
  const post = (path) => fetch(`${base}/${path}`, { method: "POST" });
  let source;

  function show(text) {
    const item = document.createElement("li");
    item.textContent = text;
    list.append(item);
    while (list.children.length > 60) list.firstChild.remove();
    list.scrollTop = list.scrollHeight;
  }

  // The epoch is the same for the life of the log: the number behind it is what changes.
  const short = (id) => id.replace(/^.*-/, "…-");

  function setConnected(connected) {
    button("connect").textContent = connected ? "Disconnect" : "Connect";
    for (const name of ["publish", "miss", "trim"]) button(name).disabled = !connected;
  }

  function close() {
    source?.close();
    source = undefined;
    setConnected(false);
  }

  button("connect").onclick = () => {
    if (source) {
      close();
      show("disconnected by this page: a new EventSource begins without a cursor");
      return;
    }
    source = new EventSource(`${base}/resume/events`);
    source.onopen = () => show("connected");
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) {
        show("refused: EventSource gives up, press Connect");
        close();
      } else {
        show("connection lost: EventSource waits, then sends Last-Event-ID");
      }
    };
    source.addEventListener("line", (event) =>
      show(`id ${short(event.lastEventId)}  ${JSON.parse(event.data).text}`),
    );
    source.addEventListener("reset", (event) =>
      show(`reset (${JSON.parse(event.data).reason}): go on after ${short(event.lastEventId)}`),
    );
    source.addEventListener("restart", () => show("the server says that it restarts"));
    setConnected(true);
  };
  button("publish").onclick = () => post("resume/publish?count=1");
  const cutAndPublish = (count) => async () => {
    await post(`cut?path=${base}/resume`);
    await post(`resume/publish?count=${count}`);
    show(`${count} published while the connection is down; the log keeps 8`);
  };
  button("miss").onclick = cutAndPublish(3);
  button("trim").onclick = cutAndPublish(20);
  return close;
}
