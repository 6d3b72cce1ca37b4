// Wrong: `Promise.race([reader.read(), aborted])` in a loop, where `aborted` is one promise for the whole stream
// Harm: a pending promise keeps one reaction per race, and each reaction keeps the result of its race: every chunk stays in memory
// Instead: streams/readable
// Probe: cannot see: memory within the process
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { iterate } from "../../src/streams/readable.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
const CHUNKS = 50;

/** How many of the chunks are still held after `read` has taken them, and only what it left behind is alive. */
async function held(read: (stream: ReadableStream<Uint8Array>) => Promise<unknown>): Promise<number> {
  const chunks: WeakRef<Uint8Array>[] = [];
  const stream = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        if (chunks.length === CHUNKS) return controller.close();
        const chunk = new Uint8Array(1024);
        chunks.push(new WeakRef(chunk));
        controller.enqueue(chunk);
      },
    },
    { highWaterMark: 0 },
  );
  const left = await read(stream);
  await new Promise((resolve) => setTimeout(resolve, 0)); // a WeakRef holds its target until the turn ends
  collect();
  const alive = chunks.filter((chunk) => chunk.deref() !== undefined).length;
  expect(left).toBeDefined(); // what is left behind has lived until here
  return alive;
}

test("a race against a promise that stays pending keeps every chunk, a listener that cancels keeps none", async () => {
  const wrong = await held(async (stream) => {
    const stop = new AbortController();
    const aborted = new Promise<never>((_, reject) =>
      stop.signal.addEventListener("abort", () => reject(stop.signal.reason)),
    );
    const reader = stream.getReader();
    while (!(await Promise.race([reader.read(), aborted])).done);
    return stop;
  });
  expect(wrong).toBe(CHUNKS);

  const right = await held(async (stream) => {
    const stop = new AbortController();
    const reader = stream.getReader();
    stop.signal.addEventListener("abort", () => void reader.cancel(stop.signal.reason)); // settles the read with `done`
    while (!(await reader.read()).done);
    return stop;
  });
  expect(right).toBeLessThanOrEqual(1);
  expect(
    await held(async (stream) => {
      for await (const _ of iterate(stream));
      return stream;
    }),
  ).toBeLessThanOrEqual(1);
});
