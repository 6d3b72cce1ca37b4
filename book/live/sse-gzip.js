// Ten events, one each 150 ms, over four paths. EventSource asks for gzip as browsers do.
import { onLeave, panel } from "./panel.js";

export default function mount(element, base) {
  const p = panel(element, "One by one, or all at once?");
  let source;

  function stop() {
    source?.close();
    source = undefined;
  }

  const watch = (what, path) => () => {
    stop();
    p.clear();
    p.status("waiting", `${what}: connecting`);
    const times = [];
    const own = (source = new EventSource(`${base}/gzip/${path}`));
    own.onopen = () => p.status("open", `${what}: the head has come`);
    own.onerror = () => {
      stop();
      p.status("failed", "lost");
    };
    own.addEventListener("tick", () => {
      times.push(performance.now());
      const since = times.length > 1 ? `${Math.round(times.at(-1) - times.at(-2))} ms after the last` : "the first";
      p.log("tick", { id: String(times.length), text: since });
    });
    own.addEventListener("done", () => {
      stop();
      const took = Math.round(times.at(-1) - times[0]);
      const together = took < 500;
      p.note(`${what}: ${times.length} events within ${took} ms`, together ? "failed" : "good");
      p.status(together ? "failed" : "done", together ? "all at once" : "one by one");
    });
  };

  p.button("No compression", watch("straight", "straight"));
  p.button("A hop that gzips", watch("through the hop", "hop"));
  p.button("The same, no-transform", watch("through the hop, no-transform", "hop?no_transform=true"));
  p.button("tower-http gzips", watch("tower-http", "tower"));
  onLeave(stop);
}
