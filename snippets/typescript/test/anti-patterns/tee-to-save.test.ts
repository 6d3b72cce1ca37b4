// Wrong: `const [toUser, toStore] = body.tee()` to show a stream and save it
// Harm: what the user has read and the store has not stays in memory without a bound, and when the user leaves the provider goes on
// Instead: streams/readable
import { expect, test } from "vitest";
import { CopyLagError, copyOf } from "../../src/streams/readable.ts";

function source(): { stream: ReadableStream<Uint8Array>; state: { pulled: number; cancelled: boolean } } {
  const state = { pulled: 0, cancelled: false };
  const stream = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        state.pulled += 1;
        controller.enqueue(new Uint8Array(64 * 1024));
      },
      cancel: () => void (state.cancelled = true),
    },
    { highWaterMark: 0 },
  );
  return { stream, state };
}

test("the slow branch of a tee holds everything, and the source is not cancelled", async () => {
  const take = async (stream: ReadableStream<Uint8Array>): Promise<ReadableStreamDefaultReader<Uint8Array>> => {
    const reader = stream.getReader();
    for (let at = 0; at < 200; at++) await reader.read();
    return reader;
  };
  const tee = source();
  const [user, store] = tee.stream.tee();
  void (await take(user)).cancel();
  // 12.8 MB wait for a store that has read nothing.
  const stored = store.getReader();
  for (let at = 0; at < 200; at++) expect((await stored.read()).value!.length).toBe(64 * 1024);
  expect(tee.state.cancelled).toBe(false);

  const bounded = source();
  const [stream, copy] = copyOf(bounded.stream, 16);
  await (await take(stream)).cancel();
  expect(bounded.state.cancelled).toBe(true);
  await expect(copy.getReader().read()).rejects.toThrow(CopyLagError);
});
