// websocket/binary: the same bytes as in Rust, in Node and in Chromium.
import { readFileSync } from "node:fs";
import { deflateSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { decodeSeries, encodeSeries, MalformedError, type Series } from "../src/websocket/binary.ts";
import { load, openPage } from "./support/browser.ts";
import { serve } from "./support/server.ts";

declare const pattern: typeof import("../src/websocket/binary.ts");

const snapshot = readFileSync(
  new URL("../../tests/snapshots/patterns__websocket_binary__transcript.snap", import.meta.url),
  "utf8",
);
/** What the Rust codec has written. */
const corpus = [...snapshot.matchAll(/^binary ([0-9a-f]+)$/gm)].map(([, hex]) => hex!);
const bytes = (hex: string): ArrayBuffer => new Uint8Array(Buffer.from(hex, "hex")).buffer;

/** A message whose payload is compressed. */
function compressed(payload: Uint8Array, more = ""): ArrayBuffer {
  return new Uint8Array(Buffer.concat([Buffer.from([1, 1, 0, 0, 0, 7]), deflateSync(payload), Buffer.from(more)]))
    .buffer;
}
const bomb = compressed(new Uint8Array(32 * 1024 * 1024));

describe("websocket/binary", () => {
  test("reads what Rust has written, and what it writes comes back", async () => {
    expect(corpus).toHaveLength(2);
    expect(await decodeSeries(bytes(corpus[0]!))).toEqual({ id: 1, values: Float64Array.of(1, 3) });
    expect(await decodeSeries(bytes(corpus[1]!))).toEqual({ id: 1, values: new Float64Array(512).fill(0.5) });
    for (const length of [0, 1, 2, 63, 64, 1000, 32 * 1024]) {
      for (const value of [() => 1.5, () => Math.random()]) {
        const series: Series = { id: 2 ** 32 - 1, values: new Float64Array(length).map(value) };
        expect(await decodeSeries(await encodeSeries(series))).toEqual(series);
      }
    }
    expect((await encodeSeries({ id: 1, values: new Float64Array(1000) })).byteLength).toBeLessThan(100);
  });

  test("refuses a bomb, and whatever is not whole or not known", async () => {
    const whole = compressed(new Uint8Array(4096));
    const changed = whole.slice(0);
    new Uint8Array(changed)[whole.byteLength - 1]! ^= 1; // the checksum
    expect((await decodeSeries(whole)).values).toHaveLength(512);
    const bad = [bomb, changed, compressed(new Uint8Array(7))];
    // Node 20 lets bytes follow the compressed stream; Node 24 and browsers do not.
    if (Number.parseInt(process.versions.node, 10) >= 24) bad.push(compressed(new Uint8Array(4096), "x"));
    for (let cut = 0; cut < whole.byteLength; cut++) bad.push(whole.slice(0, cut));
    for (const header of [[], [2, 0, 0, 0, 0, 1], [1, 2, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1, 0]])
      bad.push(Uint8Array.from(header).buffer);
    bad.push(new ArrayBuffer(6 + 256 * 1024 + 8));
    for (const message of bad) await expect(decodeSeries(message)).rejects.toThrow(MalformedError);
  });

  test("works where streams have no async iterator, as in Safari before 27", async () => {
    const prototype = ReadableStream.prototype;
    const own = Object.getOwnPropertyDescriptor(prototype, Symbol.asyncIterator)!;
    Reflect.deleteProperty(prototype, Symbol.asyncIterator);
    try {
      const series = { id: 1, values: new Float64Array(1_000).fill(2) };
      expect(await decodeSeries(await encodeSeries(series))).toEqual(series);
      await expect(decodeSeries(bomb)).rejects.toThrow("too large");
    } finally {
      Object.defineProperty(prototype, Symbol.asyncIterator, own);
    }
  });

  test("in Chromium too, where a stream inflates all of what it is given at once", async () => {
    const page = await openPage((await serve({})).origin);
    await load(page, "websocket/binary.ts");
    const result = await page.evaluate(
      async ([corpus, bomb]) => {
        const bytes = (list: number[]): Uint8Array<ArrayBuffer> => Uint8Array.from(list);
        const read = await Promise.all(corpus!.map((list) => pattern.decodeSeries(bytes(list).buffer)));
        const error = await pattern.decodeSeries(bytes(bomb![0]!).buffer).catch((error: Error) => error.name);
        const again = await pattern.decodeSeries(
          await pattern.encodeSeries({ id: 9, values: new Float64Array(600).fill(2) }),
        );
        // Without slices: one read, and the write is done, which is when all of its output is queued.
        const { readable, writable } = new DecompressionStream("deflate");
        const written = writable.getWriter().write(bytes(bomb![0]!).subarray(6));
        const reader = readable.getReader();
        const first = (await reader.read()).value!.length;
        await written;
        let queued = first;
        while (queued < 32 * 1024 * 1024) queued += (await reader.read()).value!.length;
        return {
          read: read.map(({ values }) => [values.length, values[1]]),
          error,
          again: again.values.length,
          first,
          queued,
        };
      },
      [corpus.map((hex) => [...new Uint8Array(bytes(hex))]), [[...new Uint8Array(bomb)]]],
    );
    expect(result).toMatchObject({
      read: [
        [2, 3],
        [512, 0.5],
      ],
      error: "MalformedError",
      again: 600,
      queued: 32 * 1024 * 1024,
    });
    expect(result.first).toBeLessThan(1024 * 1024);
  });
});
