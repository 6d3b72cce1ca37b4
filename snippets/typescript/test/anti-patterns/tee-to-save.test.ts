// Wrong: `const [toUser, toStore] = body.tee()`, or `response.clone()`, to show a stream and save it
// Harm: data that the user has read but the store has not stays in memory without a bound, and when the user leaves, the provider keeps going
// Instead: streams/readable
// Probe: cannot see: within the service; in front of a provider it is upstream-not-aborted
import { expect, test } from "vitest";
import { CopyLagError, copyOf } from "../../src/streams/readable.ts";

function source(): { stream: ReadableStream<Uint8Array<ArrayBuffer>>; state: { pulled: number; cancelled: boolean } } {
  const state = { pulled: 0, cancelled: false };
  const stream = new ReadableStream<Uint8Array<ArrayBuffer>>(
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
  const clone = (
    body: ReadableStream<Uint8Array<ArrayBuffer>>,
  ): [ReadableStream<Uint8Array>, ReadableStream<Uint8Array>] => {
    const response = new Response(body);
    const copy = response.clone();
    return [response.body!, copy.body!];
  };
  for (const split of [(body: ReadableStream<Uint8Array<ArrayBuffer>>) => body.tee(), clone]) {
    const teed = source();
    const [user, store] = split(teed.stream);
    void (await take(user)).cancel();
    // 12.8 MB wait for a store that has read nothing.
    const stored = store.getReader();
    for (let at = 0; at < 200; at++) expect((await stored.read()).value!.length).toBe(64 * 1024);
    expect(teed.state.cancelled).toBe(false);
  }

  const bounded = source();
  const [stream, copy] = copyOf(bounded.stream, 1024 * 1024);
  await (await take(stream)).cancel();
  expect(bounded.state.cancelled).toBe(true);
  await expect(copy.getReader().read()).rejects.toThrow(CopyLagError);
});
