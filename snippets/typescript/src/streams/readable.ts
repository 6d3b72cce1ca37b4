// streams/readable: ReadableStreams with backpressure, cancellation, heartbeats and bounded copies.
//
// Use it for the body of a Response (Next.js, Deno, workers, Node) and for pipes in the browser.
// Promise: nothing is produced that was not asked for; a consumer that leaves aborts the producer at once; no
// enqueue after the end, no timer without an owner, no queue without a bound.

// ANCHOR: pull
/**
 * Returns a stream of the chunks that `produce` yields, started by the first read and paced by the reader. Pass the signal
 * to every await in `produce`: a cancelled generator ends only after its pending `await`.
 */
export function pullFrom<T>(produce: (signal: AbortSignal) => AsyncIterable<T>): ReadableStream<T> {
  const abort = new AbortController();
  let iterator: AsyncIterator<T> | undefined;
  return new ReadableStream<T>(
    {
      // Called when there is room, and not again before its promise settles: this is the backpressure. A loop in
      // start() would enqueue even if the reader does not read.
      async pull(controller) {
        try {
          iterator ??= produce(abort.signal)[Symbol.asyncIterator]();
          const { done, value } = await iterator.next();
          if (abort.signal.aborted) return; // after cancel() the controller throws
          if (done) controller.close();
          else controller.enqueue(value);
        } catch (error) {
          // Discards queued chunks. To send a last message, yield it and return.
          if (!abort.signal.aborted) controller.error(error);
        }
      },
      // Only this notifies the producer that its reader has left.
      cancel(reason) {
        abort.abort(reason);
        // In a function of its own: an iterator made by hand may throw here, or return no promise.
        void (async () => iterator?.return?.())().catch(() => undefined);
      },
    },
    // The default of 1 would start the work before anyone reads. 16384 would mean as many chunks: only
    // `new ByteLengthQueuingStrategy({ highWaterMark: 16384 })` counts bytes.
    { highWaterMark: 0 },
  );
}
// ANCHOR_END: pull

// ANCHOR: first
/**
 * The first value of `source` if it comes within `ms`, and all values, that one included. While the head of a response is held,
 * a refusal can still be a status. `all` must be read, or ended with `return()`: the source may hold a connection or a timer.
 */
export async function holdFirst<T>(
  source: AsyncIterable<T>,
  ms: number,
): Promise<{ early?: T; all: AsyncIterable<T> & { return(): Promise<unknown> } }> {
  const iterator = source[Symbol.asyncIterator]();
  const first = iterator.next();
  first.catch(() => undefined); // thrown where `all` is read
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)));
  const early = await Promise.race([first, late]).finally(() => clearTimeout(timer));
  let held: typeof first | undefined = first;
  // Not a generator: `return()` on one that has not begun would not reach the source.
  const all = {
    [Symbol.asyncIterator]: () => all,
    next: () => {
      const next = held ?? iterator.next();
      held = undefined;
      return next;
    },
    return: async (): Promise<IteratorResult<T>> => {
      await iterator.return?.();
      return { done: true, value: undefined };
    },
  };
  return early && !early.done ? { early: early.value, all } : { all };
}
// ANCHOR_END: first

// ANCHOR: heartbeat
/**
 * Passes chunks on, and sends `beat` first and after each `everyMs` of silence. The first one releases the response
 * headers, which some servers hold back until the first byte. Its timer runs only while the reader waits, so no timer
 * is left after the end, and no beats pile up for a reader that does not read.
 */
export function withHeartbeat<T>(source: ReadableStream<T>, beat: T, everyMs = 15_000): ReadableStream<T> {
  const reader = source.getReader();
  let next: Promise<ReadableStreamReadResult<T>> | undefined;
  let settled = false;
  let first = true;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let wake = (): void => undefined;
  const settle = (): void => {
    settled = true;
    wake();
  };
  return new ReadableStream<T>(
    {
      async pull(controller) {
        if (first) {
          first = false;
          return controller.enqueue(beat);
        }
        if (next === undefined) {
          settled = false;
          next = reader.read(); // one read lasts over several beats: an abandoned read would lose its chunk
          // One reaction per read. Promise.race would add a reaction with each beat.
          next.then(settle, settle);
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
          timer = setTimeout(resolve, Math.min(everyMs, 2 ** 31 - 1)); // setTimeout takes more for 1
          if (settled) resolve();
        });
        clearTimeout(timer);
        if (!settled) return controller.enqueue(beat);
        const { done, value } = await next;
        next = undefined;
        if (done) controller.close();
        else controller.enqueue(value);
      },
      cancel(reason) {
        clearTimeout(timer);
        return reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}
// ANCHOR_END: heartbeat

// ANCHOR: unread
/**
 * The stream, whose source is cancelled when nobody has taken the next chunk for `ms`: a peer that keeps its connection and reads
 * nothing. Time in which the source has nothing does not count. The reader then gets a `TimeoutError`; the connection itself is the
 * server's, which closes it at its own limit.
 */
export function endUnread<T>(source: ReadableStream<T>, ms = 60_000): ReadableStream<T> {
  const reader = source.getReader();
  let timer: ReturnType<typeof setTimeout> | undefined;
  return new ReadableStream<T>(
    {
      async pull(controller) {
        clearTimeout(timer);
        const { done, value } = await reader.read(); // rejected, it is the error of this stream
        if (done) return controller.close();
        controller.enqueue(value);
        timer = setTimeout(() => {
          const reason = new DOMException(`nothing was read for ${ms} ms`, "TimeoutError");
          controller.error(reason);
          void reader.cancel(reason).catch(() => undefined);
        }, ms);
      },
      cancel(reason) {
        clearTimeout(timer);
        return reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}
// ANCHOR_END: unread

/** The copy was read too slowly. */
export class CopyLagError extends Error {
  override readonly name = "CopyLagError";
}

const CHUNK_COST = 256; // bytes, roughly what an array and its place in a queue take, so that tiny chunks count

/**
 * The stream, and a copy of it that may be at most `maxBytes` behind, each chunk counting for its length and 256:
 * then what waits is dropped, the copy fails at once, and the stream continues. `tee()` keeps what one branch has read
 * and the other has not without any bound, shares the memory of each chunk between both, and lets the source run
 * until both are cancelled. Here the bytes are copied, and the stream leads: when it is cancelled, so is the source,
 * and the copy fails after what the stream has passed on.
 */
export function copyOf<T extends Uint8Array>(
  source: ReadableStream<T>,
  maxBytes: number,
): [stream: ReadableStream<T>, copy: ReadableStream<Uint8Array<ArrayBuffer>>] {
  const reader = source.getReader();
  const cost = (chunk: Uint8Array): number => chunk.byteLength + CHUNK_COST;
  let copy: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>> | undefined;
  let incomplete: { reason: unknown } | undefined;
  // error() discards the queue: it waits until that is empty.
  const fail = (): void => {
    if (incomplete !== undefined && copy?.desiredSize === maxBytes) copy.error(incomplete.reason);
  };
  const copied = new ReadableStream<Uint8Array<ArrayBuffer>>(
    { start: (controller) => void (copy = controller), pull: fail, cancel: () => void (copy = undefined) },
    { highWaterMark: maxBytes, size: cost },
  );
  // ANCHOR: copy
  const stream = new ReadableStream<T>(
    {
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) {
            copy?.close();
            return controller.close();
          }
          if (copy !== undefined && copy.desiredSize! < cost(value)) {
            copy.error(new CopyLagError(`over ${maxBytes} bytes behind`));
            copy = undefined;
          }
          // The reader of `value` may write into it, or transfer it. Not slice(): that of a Node Buffer copies nothing.
          copy?.enqueue(new Uint8Array(value));
          controller.enqueue(value);
        } catch (reason) {
          controller.error(reason);
          incomplete = { reason };
          fail();
        }
      },
      cancel(reason) {
        incomplete = { reason: new DOMException("the stream was cancelled", "AbortError") };
        fail();
        return reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
  // ANCHOR_END: copy
  return [stream, copied];
}

// ANCHOR: outcome
/**
 * Tells once how a stream ended. Not a TransformStream: its `flush` runs at a complete end only, and Chromium 156
 * calls nothing at all on it when the reader leaves or the source fails.
 */
export function onOutcome<T>(
  source: ReadableStream<T>,
  report: (outcome: "complete" | "cancelled" | "failed", reason?: unknown) => void,
): ReadableStream<T> {
  const reader = source.getReader();
  return new ReadableStream<T>(
    {
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (!done) return controller.enqueue(value);
          controller.close();
          report("complete");
        } catch (error) {
          controller.error(error);
          report("failed", error);
        }
      },
      cancel(reason) {
        report("cancelled", reason);
        return reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}
// ANCHOR_END: outcome

// ANCHOR: iterate
/** `for await` over a stream where Safari before 27 has no iterator for it; leaving the loop cancels the stream. */
export async function* iterate<T>(stream: ReadableStream<T>): AsyncGenerator<T, void, void> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    // releaseLock() alone would leave the connection open and filling.
    await reader.cancel();
  }
}
// ANCHOR_END: iterate
