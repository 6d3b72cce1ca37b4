// A job of six seconds. The connection can be cut while it runs; at the end, the page closes or,
// when it forgets to, is stopped by the server's 204.
export default function mount(element, base) {
  element.innerHTML = `
    <p>
      <button type="button" data-do="start">Start a job</button>
      <button type="button" data-do="cut" disabled>Cut the connection</button>
      <label><input type="checkbox"> forget to close after <code>done</code></label>
    </p>
    <p><progress max="100" value="0"></progress></p>
    <ol class="live-log" aria-live="polite"></ol>`;
  const list = element.querySelector("ol");
  const bar = element.querySelector("progress");
  const forget = element.querySelector("input");
  const button = (name) => element.querySelector(`[data-do=${name}]`);
  let source;

  function show(text) {
    const item = document.createElement("li");
    item.textContent = text;
    list.append(item);
    list.scrollTop = list.scrollHeight;
  }

  function close() {
    source?.close();
    source = undefined;
    button("cut").disabled = true;
  }

  button("start").onclick = async () => {
    close();
    list.replaceChildren();
    const response = await fetch(`${base}/serve/jobs`, { method: "POST" });
    const { id } = await response.json();
    source = new EventSource(`${base}/serve/jobs/${id}/events`);
    const own = source;
    source.onopen = () => show("connected");
    source.onerror = () => {
      if (source !== own) return;
      if (own.readyState === EventSource.CLOSED) {
        show("204: EventSource stops");
        close();
      } else {
        show("connection lost: EventSource comes back by itself");
      }
    };
    const state = (event) => {
      bar.value = JSON.parse(event.data).percent;
      show(`${event.type}  id ${event.lastEventId}  ${event.data}`);
    };
    source.addEventListener("progress", state);
    source.addEventListener("done", (event) => {
      state(event);
      if (forget.checked) {
        show("not closed: the end of the response looks like a lost connection");
      } else {
        close();
        show("closed by this page");
      }
    });
    for (const name of ["failed", "stream_error"]) {
      source.addEventListener(name, (event) => {
        show(`${name}  ${event.data}`);
        close();
      });
    }
    source.addEventListener("restart", () => show("the server says that it restarts"));
    button("cut").disabled = false;
  };
  button("cut").onclick = () => fetch(`${base}/cut?path=${base}/serve`, { method: "POST" });
  return close;
}
