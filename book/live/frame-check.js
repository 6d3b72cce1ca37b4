// The connection check of /live/: do twenty events arrive one by one?
import { onLeave, panel } from "./panel.js";

export default function mount(element, base) {
  const p = panel(element, "Connection check");
  let source;
  let times = [];

  function stop() {
    source?.close();
    source = undefined;
  }

  p.button("Start", () => {
    stop();
    p.clear();
    times = [];
    p.status("waiting", "connecting");
    source = new EventSource(`${base}/ticks`);
    source.onopen = () => p.status("open", "connected");
    source.addEventListener("tick", (event) => {
      times.push(performance.now());
      const since = times.length > 1 ? `${Math.round(times.at(-1) - times.at(-2))} ms after the last` : "first";
      p.log("tick", { id: event.lastEventId, text: since });
    });
    source.addEventListener("done", () => {
      stop();
      // 20 ticks of 150 ms; whoever buffers delivers them within a moment.
      const took = times.at(-1) - times[0];
      const together = took < 1000 && times.length > 10;
      p.status(together ? "failed" : "done", together ? "buffered on the way" : "complete");
      p.note(`${times.length} events within ${Math.round(took)} ms`, together ? "failed" : "good");
    });
    source.addEventListener("bye", () => {
      stop();
      p.status("done", "the program has ended");
    });
    source.onerror = () => {
      if (source?.readyState === EventSource.CONNECTING) p.status("waiting", "reconnecting");
      else if (source) p.status("failed", "closed by the server");
    };
  });
  p.button("Cut", () => p.cut(base));
  p.button("Stop", () => {
    stop();
    p.status("idle", "stopped");
  });
  onLeave(stop);
}
