// Wrong: `for await (const chunk of source) controller.enqueue(chunk)` in start()
// Harm: enqueue never waits: a client that does not read makes the server hold all of the source in memory
// Instead: streams/readable
// Probe: cannot see: within the service; in front of a provider it is upstream-not-aborted
import { expect, test } from "vitest";
import { pullFrom } from "../../src/streams/readable.ts";

let produced = 0;
async function* source(): AsyncGenerator<Uint8Array> {
  for (produced = 0; produced < 1_000; produced++) {
    await Promise.resolve();
    yield new Uint8Array(1_024);
  }
}

function wrong(): ReadableStream<Uint8Array> {
  return new ReadableStream({
    async start(controller) {
      for await (const chunk of source()) controller.enqueue(chunk);
      controller.close();
    },
  });
}

test("start() produces everything for a reader that takes one chunk", async () => {
  const settled = async (stream: ReadableStream<Uint8Array>): Promise<number> => {
    await stream.getReader().read();
    // Until nothing has been produced for many turns.
    for (let still = 0, last = -1; still < 20; last = produced) {
      still = last === produced ? still + 1 : 0;
      await new Promise((resolve) => setImmediate(resolve));
    }
    return produced;
  };
  expect(await settled(wrong())).toBe(1_000);
  expect(await settled(pullFrom(source))).toBeLessThanOrEqual(1);
});
