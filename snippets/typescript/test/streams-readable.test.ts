import { describe, expect, onTestFinished, test, vi } from "vitest";
import { encodeEvent, eventEncoder, type OutgoingEvent } from "../src/sse/encode.ts";
import { EventStreamParser } from "../src/sse/event-stream.ts";
import {
  CopyLagError,
  copyOf,
  endUnread,
  holdFirst,
  iterate,
  onOutcome,
  pullFrom,
  withHeartbeat,
} from "../src/streams/readable.ts";
import { load, openPage } from "./support/browser.ts";
import { eventually, gone, serve, signal } from "./support/server.ts";
import * as facts from "./support/stream-facts.ts";

declare const pattern: typeof facts;
const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

describe("holdFirst", () => {
  /** Yields 1, 2, 3 once `begin` has settled. */
  function source(begin: Promise<void>): { values: AsyncIterable<number>; ended: () => boolean } {
    let ended = false;
    async function* values(): AsyncGenerator<number> {
      try {
        await begin;
        yield* [1, 2, 3];
      } finally {
        ended = true;
      }
    }
    return { values: values(), ended: () => ended };
  }
  const collect = async (all: AsyncIterable<number>): Promise<number[]> => {
    const got = [];
    for await (const value of all) got.push(value);
    return got;
  };

  test("gives the first value early, or none, and then every value once", async () => {
    const prompt = await holdFirst(source(Promise.resolve()).values, 60_000);
    expect(prompt.early).toBe(1);
    expect(await collect(prompt.all)).toEqual([1, 2, 3]);
    const begin = Promise.withResolvers<void>();
    const late = await holdFirst(source(begin.promise).values, 1);
    expect(late.early).toBeUndefined();
    begin.resolve();
    expect(await collect(late.all)).toEqual([1, 2, 3]);
    const broken = await holdFirst(source(Promise.reject(new Error("refused"))).values, 60_000).catch(String);
    expect(broken).toBe("Error: refused");
  });

  test("return() ends a source of which nothing has been read", async () => {
    const { values, ended } = source(Promise.resolve());
    const { all } = await holdFirst(values, 60_000);
    expect(ended()).toBe(false);
    await all.return();
    expect(ended()).toBe(true);
  });
});

describe("ReadableStream in Node and Chromium", () => {
  const both = async <T>(fact: (its: typeof facts) => T | Promise<T>): Promise<T> => {
    const server = await serve({});
    const page = await openPage(server.origin);
    await load(page, "test/support/stream-facts.ts");
    const inNode = await fact(facts);
    const inChromium = await page.evaluate(`(${fact.toString()})(window.pattern)`);
    expect(inChromium).toEqual(inNode);
    return inNode;
  };

  test("enqueue ignores the reader, and pull waits for it", async () => {
    expect(await both((its) => its.enqueueInStartIgnoresTheReader())).toBe(-99);
    // The mark counts chunks: it is the number of pulls that nobody has asked for.
    expect(await both((its) => its.pullsWithoutReader(1))).toBe(1);
    expect(await both((its) => its.pullsWithoutReader(0))).toBe(0);
    expect(await both((its) => its.pullsWithoutReader(16_384))).toBe(16_384);
  });

  test("after cancel enqueue and close throw", async () => {
    expect(await both((its) => its.afterCancel())).toEqual(["enqueue TypeError", "close TypeError", "error ok"]);
  });

  test("error discards what is queued and close keeps it", async () => {
    expect(await both((its) => its.errorDiscardsTheQueue())).toEqual(["error lost", "close last words"]);
  });

  test("tee buffers without bound, and cancelling one branch stops nothing", async () => {
    expect(await both((its) => its.teeBuffersForTheSlowBranch())).toEqual({ pulled: 1_000, cancelled: 0, after: 0 });
  });

  test("flush of a transform runs at a complete end only, and Chromium knows no cancel for it", async () => {
    expect(await facts.transformEnds()).toEqual(["complete flush", "cancelled cancel", "failed cancel"]);
    const page = await openPage((await serve({})).origin);
    await load(page, "test/support/stream-facts.ts");
    expect(await page.evaluate(() => pattern.transformEnds())).toEqual(["complete flush"]);
    expect(await both((its) => its.transformErrorCancelsTheSource())).toBe("broken");
  });

  test("a decoder without stream: true breaks characters, and its last call tells of a cut", async () => {
    expect(await both((its) => its.decoding())).toEqual(["\ufffd\ufffd\ufffd", "😀", "", "\ufffd"]);
  });

  test("half a surrogate pair cannot be encoded alone, and a slice can cut a family", async () => {
    expect(await both((its) => its.surrogates())).toEqual(["\ufffd\ufffd", "😀", "👨", "1"]);
  });

  test("a second reader is refused, and releasing rejects the pending read", async () => {
    expect(await both((its) => its.locking())).toEqual(["TypeError", "TypeError"]);
  });

  test("break cancels, and return waits for the await that is under way", async () => {
    expect(await both((its) => its.breakCancels())).toBe(1);
    expect(await both((its) => its.generatorFinallyIsLate())).toEqual(["asked to return", "finally"]);
  });

  test("Chromium has no ReadableStream.from and no async generator as a body", async () => {
    const page = await openPage((await serve({})).origin);
    await load(page, "test/support/stream-facts.ts");
    expect(facts.support()).toEqual({ asyncIterator: true, from: true, webSocketStream: false });
    expect(await page.evaluate(() => pattern.support())).toEqual({
      asyncIterator: true,
      from: false,
      webSocketStream: true,
    });
    expect(await facts.generatorAsBody()).toBe("streamed");
    expect(await page.evaluate(() => pattern.generatorAsBody())).toBe("[object AsyncGenerator]");
  });

  test("an upload stream needs duplex: half, and HTTP/2", async () => {
    const server = await serve({ "/upload": (_, response) => void response.end() });
    const page = await openPage(server.origin);
    const outcomes = await page.evaluate(async () => {
      const body = (): ReadableStream => new ReadableStream({ start: (controller) => controller.close() });
      const upload = (init: object): Promise<string> =>
        fetch("/upload", { method: "POST", body: body(), ...init }).then(
          () => "ok",
          (error: Error) => error.message,
        );
      return [await upload({}).catch(String), await upload({ duplex: "half" })];
    });
    expect(outcomes[0]).toContain("duplex");
    expect(outcomes[1]).toBe("Failed to fetch");
    expect(server.hits.get("/upload")).toBeUndefined();
  });

  test("releaseLock leaves the connection open and cancel closes it", async () => {
    const closed: string[] = [];
    const server = await serve(
      Object.fromEntries(
        ["/release", "/cancel"].map((path) => [
          path,
          (_, response) => {
            response.writeHead(200).write("x");
            void gone(response).then(() => closed.push(path));
          },
        ]),
      ),
    );
    const page = await openPage(server.origin);
    await page.evaluate(async () => {
      for (const path of ["/release", "/cancel"]) {
        const response = await fetch(path);
        const reader = response.body!.getReader();
        await reader.read();
        if (path === "/cancel") await reader.cancel();
        else reader.releaseLock();
        Object.assign(window, { [path]: response });
      }
    });
    await eventually(() => closed.length > 0);
    expect(closed).toEqual(["/cancel"]);
  });
});

describe("pullFrom", () => {
  test("starts with the first read and produces one chunk for each", async () => {
    const produced: number[] = [];
    const stream = pullFrom(async function* () {
      for (let at = 0; ; at++) {
        produced.push(at);
        yield at;
      }
    });
    await tick();
    expect(produced).toEqual([]);
    const reader = stream.getReader();
    await reader.read();
    await reader.read();
    await tick();
    expect(produced).toEqual([0, 1]);
  });

  test("cancel aborts the await that is under way, and the generator cleans up", async () => {
    const cleaned = signal();
    const stream = pullFrom<number>(async function* (signal) {
      try {
        await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
        yield 1;
      } finally {
        cleaned.resolve();
      }
    });
    const reader = stream.getReader();
    const pending = reader.read();
    await tick(); // the generator waits now
    await reader.cancel("left");
    await cleaned.promise;
    expect((await pending).done).toBe(true);
  });

  test("cancel bears an iterator whose return throws, or gives no promise", async () => {
    const make = (end: () => never): ReadableStream<number> =>
      pullFrom(() => ({
        [Symbol.asyncIterator]: () => ({ next: async () => ({ done: false, value: 1 }), return: end }),
      }));
    for (const end of [
      () => {
        throw new Error("return");
      },
      () => undefined as never,
    ]) {
      const reader = make(end).getReader();
      await reader.read();
      await reader.cancel();
    }
  });

  test("passes an error on and ends with the iterator", async () => {
    const failing = pullFrom<number>(async function* () {
      yield 1;
      throw new Error("upstream");
    });
    const reader = failing.getReader();
    expect((await reader.read()).value).toBe(1);
    await expect(reader.read()).rejects.toThrow("upstream");
    const two = pullFrom(async function* () {
      yield* [1, 2];
    });
    const seen = [];
    for await (const value of iterate(two)) seen.push(value);
    expect(seen).toEqual([1, 2]);
  });

  test("as the body of a response it stops for a client that does not read, and when it leaves", async () => {
    let produced = 0;
    const stopped = signal();
    const server = await serve({
      "/flood": async (_, response) => {
        const body = pullFrom(async function* () {
          try {
            for (;;) {
              produced += 1;
              yield new Uint8Array(64 * 1024);
            }
          } finally {
            stopped.resolve();
          }
        });
        const { Readable } = await import("node:stream");
        const { pipeline } = await import("node:stream/promises");
        await pipeline(Readable.fromWeb(body as import("node:stream/web").ReadableStream), response).catch(
          () => undefined,
        );
      },
    });
    const { connect } = await import("node:net");
    const socket = connect(Number(new URL(server.origin).port), "127.0.0.1").pause();
    socket.write("GET /flood HTTP/1.1\r\nhost: x\r\n\r\n");
    // Standing still is seen when many turns of the loop pass without a chunk.
    let still = 0;
    for (let last = -1; still < 50; last = produced) {
      still = produced === last && produced > 0 ? still + 1 : 0;
      await tick();
    }
    expect(produced).toBeLessThan(500); // 32 MB: the buffers of the kernel
    socket.destroy();
    await stopped.promise;
  });
});

test("endUnread: a reader that takes nothing cancels the source; a source that is silent does not count", async () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const left = vi.fn();
  const late = Promise.withResolvers<string>();
  const numbers = (): ReadableStream<string> =>
    pullFrom(async function* (signal) {
      signal.addEventListener("abort", left);
      yield "one";
      yield await late.promise;
      yield "three";
    });
  const reader = endUnread(numbers(), 1_000).getReader();
  expect((await reader.read()).value).toBe("one");
  const waiting = reader.read();
  await vi.advanceTimersByTimeAsync(5_000);
  late.resolve("two");
  expect((await waiting).value).toBe("two");
  await vi.advanceTimersByTimeAsync(999);
  expect(left).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(1);
  expect(left).toHaveBeenCalledOnce();
  await expect(reader.read()).rejects.toMatchObject({ name: "TimeoutError" });

  // Without it the source waits for this reader as long as the reader likes; after the end there is no timer.
  const unbounded = numbers().getReader();
  await unbounded.read();
  await vi.advanceTimersByTimeAsync(3_600_000);
  expect(left).toHaveBeenCalledOnce();
  for await (const _ of iterate(endUnread(numbers(), 1_000)));
  expect(vi.getTimerCount()).toBe(0);
});

describe("withHeartbeat", () => {
  test("beats at once and in silence, loses nothing, and has no timer after the end", async () => {
    const source = Promise.withResolvers<string>();
    const stream = withHeartbeat(
      pullFrom(async function* () {
        yield await source.promise;
      }),
      ":",
      5,
    );
    const reader = stream.getReader();
    const seen = [];
    for (let at = 0; at < 3; at++) seen.push((await reader.read()).value);
    source.resolve("data");
    let part = await reader.read();
    while (part.value === ":") part = await reader.read();
    seen.push(part.value, (await reader.read()).done);
    expect(seen).toEqual([":", ":", ":", "data", true]);
  });

  test("a read that stays pending gets one reaction, not one for each beat", async () => {
    let reactions = 0;
    const source = new ReadableStream<string>();
    const reader = source.getReader();
    const read = reader.read.bind(reader);
    reader.read = () => {
      const next = read();
      const then = next.then.bind(next);
      const counted = (...args: Parameters<typeof then>): ReturnType<typeof then> => {
        reactions++;
        return then(...args);
      };
      return Object.defineProperty(next, "then", { value: counted });
    };
    source.getReader = (() => reader) as typeof source.getReader;
    const beats = withHeartbeat(source, ":", 1).getReader();
    for (let at = 0; at < 5; at++) await beats.read();
    expect(reactions).toBe(1);
    await beats.cancel();
  });

  test("the timer is one that setTimeout can hold, and cancel clears it while the source takes long to leave", async () => {
    const timers = vi.spyOn(globalThis, "setTimeout");
    const cleared = vi.spyOn(globalThis, "clearTimeout");
    const reader = withHeartbeat(
      new ReadableStream({ cancel: () => new Promise(() => undefined) }),
      ":",
      Infinity,
    ).getReader();
    await reader.read();
    void reader.read();
    await eventually(() => timers.mock.calls.some(([, ms]) => ms === 2 ** 31 - 1)); // a longer one fires after 1 ms
    const at = timers.mock.calls.findIndex(([, ms]) => ms === 2 ** 31 - 1);
    void reader.cancel();
    expect(cleared).toHaveBeenCalledWith(timers.mock.results[at]!.value);
    timers.mockRestore();
    cleared.mockRestore();
  });

  test("cancel reaches the source", async () => {
    const cancelled = signal<unknown>();
    const stream = withHeartbeat(new ReadableStream({ cancel: cancelled.resolve }), ":", 5);
    await stream.cancel("left");
    expect(await cancelled.promise).toBe("left");
  });
});

describe("copyOf", () => {
  /** Chunks of one byte, which cost 257: 0, 1, 2 and so on, then the end or an error. */
  const numbers = (
    count: number,
    end: { error?: Error; onCancel?: () => void } = {},
  ): ReadableStream<Uint8Array<ArrayBuffer>> => {
    let at = 0;
    return new ReadableStream<Uint8Array<ArrayBuffer>>(
      {
        pull(controller) {
          if (at < count) controller.enqueue(Uint8Array.of(at++));
          else if (end.error !== undefined) controller.error(end.error);
          else controller.close();
        },
        cancel: end.onCancel ?? ((): void => undefined),
      },
      { highWaterMark: 0 },
    );
  };
  /** What comes, and then the name of the error, if there is one. */
  const read = async (from: ReadableStream<Uint8Array>): Promise<unknown[]> => {
    const seen: unknown[] = [];
    try {
      for await (const chunk of iterate(from)) seen.push(...chunk);
    } catch (error) {
      seen.push((error as Error).name);
    }
    return seen;
  };
  const all = (count: number): number[] => Array.from({ length: count }, (_, at) => at);

  test("both get everything while the copy keeps up", async () => {
    const [stream, copy] = copyOf(numbers(20), 4 * 257);
    expect(await Promise.all([read(stream), read(copy)])).toEqual([all(20), all(20)]);
  });

  test("a slow copy fails at its bound and the stream goes on", async () => {
    const [fits, whole] = copyOf(numbers(20), 20 * 257);
    expect([await read(fits), await read(whole)]).toEqual([all(20), all(20)]);
    const [stream, copy] = copyOf(numbers(20), 20 * 257 - 1);
    const reader = copy.getReader();
    expect(await read(stream)).toEqual(all(20));
    await expect(reader.closed).rejects.toThrow(CopyLagError); // at once, also while a write is under way
    await expect(reader.read()).rejects.toThrow(CopyLagError);
  });

  test("cancelling the stream cancels the source, and fails the copy after what the client got", async () => {
    const cancelled = signal();
    const [stream, copy] = copyOf(numbers(20, { onCancel: cancelled.resolve }), 4 * 257);
    const reader = stream.getReader();
    for (let at = 0; at < 3; at++) await reader.read();
    await reader.cancel();
    await cancelled.promise;
    expect(await read(copy)).toEqual([0, 1, 2, "AbortError"]);
    // A copy that has read everything, and waits.
    const [other, waiting] = copyOf(numbers(20), 4 * 257);
    const pending = read(waiting);
    await other.cancel();
    expect(await pending).toEqual(["AbortError"]);
  });

  test("an error of the source fails the copy after what the client got", async () => {
    const [stream, copy] = copyOf(numbers(3, { error: new RangeError("upstream") }), 4 * 257);
    expect([await read(stream), await read(copy)]).toEqual([
      [0, 1, 2, "RangeError"],
      [0, 1, 2, "RangeError"],
    ]);
  });

  test("a cancelled copy does not disturb the stream", async () => {
    const [stream, copy] = copyOf(numbers(3), 4 * 257);
    await copy.cancel();
    expect(await read(stream)).toEqual(all(3));
  });

  test("a reader that changes or transfers its chunk leaves the copy whole, also of a Buffer", async () => {
    for (const chunk of [Uint8Array.of(1, 2), Buffer.from([1, 2])]) {
      const [stream, copy] = copyOf(
        new ReadableStream<Uint8Array<ArrayBuffer>>({ start: (controller) => controller.enqueue(chunk) }),
        1_000,
      );
      const { value } = await stream.getReader().read();
      value!.fill(0);
      if (!Buffer.isBuffer(value)) structuredClone(value, { transfer: [value!.buffer] });
      expect([...(await copy.getReader().read()).value!]).toEqual([1, 2]);
    }
  });
});

describe("onOutcome", () => {
  test("tells a complete stream from one that was left and one that has failed", async () => {
    const outcomes: string[] = [];
    const watched = (produce: () => AsyncIterable<number>): ReadableStream<number> =>
      onOutcome(pullFrom(produce), (outcome) => outcomes.push(outcome));
    const endless = async function* (): AsyncGenerator<number> {
      for (;;) yield 1;
    };
    const one = async function* (): AsyncGenerator<number> {
      yield 1;
    };
    const failing = async function* (): AsyncGenerator<number> {
      yield 1;
      throw new Error("upstream");
    };
    for await (const _ of iterate(watched(one)));
    for await (const _ of iterate(watched(endless))) break;
    const reader = watched(failing).getReader();
    await reader.read();
    await expect(reader.read()).rejects.toThrow("upstream");
    expect(outcomes).toEqual(["complete", "cancelled", "failed"]);
  });

  test("an error sent in the stream is a complete stream, and a whole copy", async () => {
    const outcomes: string[] = [];
    const inBand = pullFrom(async function* () {
      yield encodeEvent({ type: "failed", data: { code: "upstream" } });
    });
    const [stream, copy] = copyOf(
      onOutcome(inBand, (outcome) => outcomes.push(outcome)),
      1_000,
    );
    for await (const _ of iterate(stream));
    expect(outcomes).toEqual(["complete"]);
    expect(await new Response(copy).text()).toContain("event: failed");
  });
});

describe("eventEncoder", () => {
  test("an event that cannot be encoded, or an error of the source, ends in the prepared failure", async () => {
    const failed = { type: "failed", data: { code: "internal" } };
    const circular: Record<string, unknown> = {};
    circular["self"] = circular;
    for (const wrong of [1n, circular, undefined, new Error("the source")]) {
      const reported: unknown[] = [];
      const encode = eventEncoder(failed, (error) => reported.push(error));
      const source = async function* (): AsyncGenerator<OutgoingEvent> {
        yield { data: 1 };
        if (wrong instanceof Error) throw wrong;
        yield { data: wrong };
        yield { data: 2 };
      };
      const text = await new Response(pullFrom(() => encode(source()))).text();
      expect(text).toBe('data: 1\n\nevent: failed\ndata: {"code":"internal"}\n\n');
      expect(reported).toHaveLength(1);
    }
  });

  test("a failure that cannot be encoded is refused before the response begins", () => {
    for (const failed of [{ type: "error", data: {} }, { data: 1n }, { type: "a\nb", data: {} }])
      expect(() => eventEncoder(failed, () => undefined)).toThrow(TypeError);
  });
});

describe("encodeEvent", () => {
  test("what goes in comes out as one event, or is refused", () => {
    const data = 'a"}\n\nevent: x\r\ndata: 2\r\u2028\0';
    const text = new TextDecoder().decode(encodeEvent({ type: "note", id: "e-1", retry: 1_500.7, data }));
    const parser = new EventStreamParser();
    expect([...parser.push(text)]).toEqual([{ type: "note", data: JSON.stringify(data), lastEventId: "e-1" }]);
    expect(parser.retry).toBe(1_500);
    for (const wrong of [{ type: "a\nb" }, { id: "1\r" }, { id: "\0" }, { type: "error" }, { type: "open" }]) {
      expect(() => encodeEvent({ ...wrong, data: 1 })).toThrow(TypeError);
    }
    expect(() => encodeEvent({ data: undefined })).toThrow(TypeError);
  });
});
