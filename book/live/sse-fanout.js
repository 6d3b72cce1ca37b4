// A hundred subscribers: this page, 98 that read at once, and one that reads a frame each 1.5 s.
// 80 events, one each 50 ms; a queue of 16, a history of 64.
import { onLeave, panel } from "./panel.js";

const POLICIES = { Disconnect: "disconnect", "Drop the oldest": "drop-oldest", Conflate: "conflate" };

export default function mount(element, base) {
  const p = panel(element, "A hundred subscribers, one of them slow");
  let streams = [];
  const rows = document.createElement("div");
  p.controls.after(rows);
  const row = (label) => {
    const wrapper = document.createElement("label");
    wrapper.style.display = "block";
    const meter = Object.assign(document.createElement("meter"), { min: 0, max: 80 });
    meter.style.width = "100%";
    const text = document.createElement("span");
    wrapper.append(`${label}: `, text, meter);
    rows.append(wrapper);
    return (value, more = "") => {
      meter.value = value;
      text.textContent = `${value} events${more}`;
    };
  };
  const page = row("this page");
  const fast = row("98 others, the one with the least");
  const slow = row("the slow one");

  function stop() {
    for (const stream of streams) stream.close();
    streams = [];
  }

  const run = (policy) => async () => {
    stop();
    p.clear();
    p.status("waiting", `${policy}: starting`);
    const response = await fetch(`${base}/fanout/run/${POLICIES[policy]}`, { method: "POST" });
    if (!response.ok) throw new Error(`start: status ${response.status}`);
    const own = new EventSource(`${base}/fanout/topics/prices/events`);
    const counts = new EventSource(`${base}/fanout/counts`);
    streams = [own, counts];
    let seen = 0;
    let last = {};
    let still = 0;
    own.onopen = () => p.status("open", `${policy}: events each 50 ms`);
    own.addEventListener("price", () => page(++seen));
    counts.addEventListener("counts", (event) => {
      const now = JSON.parse(event.data);
      if (!now) return;
      fast(now.least);
      slow(now.slow, `, ${now.ended} times disconnected, ${now.resets} times told that it lost some`);
      if (now.ended > (last.ended ?? 0))
        p.log("disconnected", { text: "the slow one was more than 16 behind; it comes back with its cursor" });
      if (now.resets > (last.resets ?? 0))
        p.log("reset", { text: "the slow one was told, and goes on with the newest", kind: "failed" });
      still = now.published === 80 && now.slow === last.slow ? still + 1 : 0;
      last = now;
      // Longer than the slow one's pause.
      if (still < 10) return;
      stop();
      p.note(
        `all others: ${now.least} of 80; the slow one: ${now.slow}; ${now.held} bytes kept for all together`,
        "good",
      );
      p.status("done", `${policy}: over`);
    });
    counts.addEventListener("restart", stop);
  };
  for (const policy of Object.keys(POLICIES)) p.button(policy, run(policy));
  onLeave(stop);
}
