// websocket/binary: binary messages with a version, compressed where that pays, decompressed up to a bound.
//
// Use it for arrays of numbers and for long texts, with `websocket/client.ts`, whose `onMessage` is awaited: that
// keeps the order although reading is asynchronous. The codec of `websocket/binary` in Rust, byte for byte.
// Promise: a message is read whole or refused; a bomb costs no more than 1 MiB above what is allowed.

/** Offer both while servers of either generation are about, and check `socket.protocol`: it names the one. */
export const SUBPROTOCOLS = ["series.v2", "series.v1"];

export interface Series {
  id: number;
  values: Float64Array<ArrayBuffer>;
}

/** Not a message of this version. Close with 4000 or your own code: browsers cannot send 1007 and 1009. */
export class MalformedError extends Error {
  override readonly name = "MalformedError";
}

/** Bytes before compression. */
const MAX_PAYLOAD = 256 * 1024;
const COMPRESS_FROM = 512;
const [SERIES, COMPRESSED, HEADER] = [1, 1, 6];

export async function encodeSeries({ id, values }: Series): Promise<ArrayBuffer> {
  const payload = new Uint8Array(values.length * 8);
  const view = new DataView(payload.buffer);
  values.forEach((value, n) => {
    view.setFloat64(n * 8, value, true);
  });
  const compressed =
    payload.length >= COMPRESS_FROM ? await through(new CompressionStream("deflate"), payload) : payload;
  const shorter = compressed.length < payload.length;
  const message = new Uint8Array(HEADER + Math.min(compressed.length, payload.length));
  message.set([SERIES, shorter ? COMPRESSED : 0]);
  new DataView(message.buffer).setUint32(2, id);
  message.set(shorter ? compressed : payload, HEADER);
  return message.buffer;
}

// ANCHOR: decode
export async function decodeSeries(message: ArrayBuffer): Promise<Series> {
  const [kind, flags] = new Uint8Array(message);
  if (message.byteLength < HEADER || kind !== SERIES || flags! > COMPRESSED) throw new MalformedError("header");
  const id = new DataView(message).getUint32(2);
  let payload = new Uint8Array(message, HEADER);
  if (flags === COMPRESSED) payload = await through(new DecompressionStream("deflate"), payload, MAX_PAYLOAD);
  if (payload.length > MAX_PAYLOAD || payload.length % 8 !== 0) throw new MalformedError("length");
  const view = new DataView(payload.buffer, payload.byteOffset);
  return { id, values: Float64Array.from({ length: payload.length / 8 }, (_, n) => view.getFloat64(n * 8, true)) };
}
// ANCHOR_END: decode

type Bytes = Uint8Array<ArrayBuffer>;

// ANCHOR: through
/** Passes `data` in slices, because the stream inflates all that it is given at once, even if nothing reads it. */
async function through(stream: GenericTransformStream, data: Bytes, max = Infinity): Promise<Bytes> {
  const slices = new ReadableStream<Bytes>(
    {
      pull(controller) {
        if (data.length === 0) return controller.close();
        controller.enqueue(data.subarray(0, 1024));
        data = data.subarray(1024);
      },
    },
    { highWaterMark: 0 },
  );
  const output = slices.pipeThrough(stream as ReadableWritablePair<Bytes, Bytes>).getReader();
  const parts: Bytes[] = [];
  let length = 0;
  try {
    // Not `for await`: Safari has it from 27 on.
    for (let next = await output.read(); !next.done; next = await output.read()) {
      length += next.value.length;
      if (length > max) throw new MalformedError("too large");
      parts.push(next.value);
    }
  } catch (error) {
    void output.cancel().catch(() => undefined); // otherwise the rest of a decompression bomb would be inflated
    throw error instanceof MalformedError ? error : new MalformedError("not compressed as it says", { cause: error });
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
// ANCHOR_END: through
