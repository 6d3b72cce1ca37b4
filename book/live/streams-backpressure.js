// One slow reader of two answers of 48 MiB: one behind a queue of 256 KiB, one behind a queue
// without a bound. Bars show what lies in each queue.
import { onLeave, panel } from "./panel.js";

export default function mount(element, base) {
  const p = panel(element, "A slow reader, bounded and unbounded");
  let running;

  const bars = {};
  for (const queue of ["bounded", "unbounded"]) {
    const row = document.createElement("label");
    const meter = document.createElement("meter");
    const text = document.createElement("span");
    meter.min = 0;
    meter.max = 48;
    meter.style.width = "100%";
    row.style.display = "block";
    row.append(`${queue} queue: `, text, meter);
    p.controls.after(row);
    bars[queue] = { meter, text };
  }
  const show = (depth) => {
    for (const [queue, { meter, text }] of Object.entries(bars)) {
      const mib = depth[queue] / 1048576;
      meter.value = mib;
      text.textContent = `${mib.toFixed(2)} MiB`;
    }
  };
  show({ bounded: 0, unbounded: 0 });

  function stop(state, text) {
    running?.abort();
    running = undefined;
    p.status(state, text);
  }

  /** Reads one chunk, then waits; the network takes no more than its buffers hold. */
  async function readSlowly(queue, signal) {
    const response = await fetch(`${base}/backpressure/${queue}`, { signal });
    if (!response.ok) throw new Error(`${queue}: status ${response.status}`);
    let read = 0;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) return p.log(queue, { text: `read to the end: ${(read / 1048576).toFixed(1)} MiB`, kind: "good" });
      read += value.length;
      const perSecond = Math.max(Number(speed.value), 0.1) * 1048576;
      await new Promise((resolve) => setTimeout(resolve, (1000 * value.length) / perSecond));
    }
  }

  p.button("Start", async () => {
    stop("waiting", "starting");
    p.clear();
    const response = await fetch(`${base}/backpressure/run`, { method: "POST" });
    if (!response.ok) throw new Error(`start: status ${response.status}`);
    const own = (running = new AbortController());
    const depths = new EventSource(`${base}/backpressure/depths`);
    own.signal.addEventListener("abort", () => depths.close());
    let largest = 0;
    depths.addEventListener("depth", (event) => {
      const depth = JSON.parse(event.data);
      show(depth);
      if (depth.unbounded > largest + 8 * 1048576) {
        largest = depth.unbounded;
        p.log("depth", { text: `${(largest / 1048576).toFixed(0)} MiB wait in the unbounded queue`, kind: "failed" });
      }
    });
    p.status("open", "reading slowly");
    p.note("the first MiB go into the buffers of the kernel and the browser: the queues fill when those are full");
    Promise.all(["bounded", "unbounded"].map((queue) => readSlowly(queue, own.signal)))
      .then(() => stop("done", "both read"))
      .catch((error) => {
        if (error.name === "AbortError") return;
        p.note(error.message, "failed");
        stop("failed", "failed");
      });
  });
  p.button("Stop", () => {
    stop("idle", "stopped: both producers end");
    show({ bounded: 0, unbounded: 0 });
  });
  const speed = p.field("MiB/s the reader takes", { type: "number", value: 0.5, min: 0.1, max: 50, step: 0.1 });
  onLeave(() => stop("idle", "left"));
}
