// sse/encode: events as bytes, for servers in TypeScript.
//
// Promise: what goes in comes out of `sse/event-stream.ts` as one event, or it is refused: a line break in data
// cannot begin a field, one in a name or id cannot be written at all.

// ANCHOR: encode
export interface OutgoingEvent {
  /** Anything but `error` and `open`, which are EventSource's own. */
  type?: string;
  /** The client sends it back in a header: use only letters, digits and `-._~`. */
  id?: string;
  /** In milliseconds; browsers obey 0. */
  retry?: number;
  /** Written as JSON, which has no line breaks and is never empty. Without data nothing fires. */
  data: unknown;
}

const encoder = new TextEncoder();

export function encodeEvent({ type, id, retry, data }: OutgoingEvent): Uint8Array<ArrayBuffer> {
  const json = JSON.stringify(data);
  if (json === undefined) throw new TypeError("data has no JSON form");
  if (type === "error" || type === "open") throw new TypeError("error and open are EventSource's own event names");
  for (const value of [type, id])
    if (value !== undefined && /[\r\n\0]/.test(value)) throw new TypeError("a line break in a field");
  let text = "";
  if (type !== undefined) text += `event: ${type}\n`;
  if (id !== undefined) text += `id: ${id}\n`;
  if (retry !== undefined) text += `retry: ${Math.max(0, Math.trunc(retry))}\n`;
  return encoder.encode(`${text}data: ${json}\n\n`);
}

/**
 * Encodes the events of a source. If the source or an event of it fails, `report` gets the error and the client gets
 * `failed` as the last event. `failed` is encoded here, before the response begins: nothing can throw in its place.
 */
export function eventEncoder(
  failed: OutgoingEvent,
  report: (error: unknown) => void,
): (source: AsyncIterable<OutgoingEvent>) => AsyncGenerator<Uint8Array<ArrayBuffer>, void, void> {
  const lastWords = encodeEvent(failed);
  return async function* (source) {
    try {
      for await (const event of source) yield encodeEvent(event);
    } catch (error) {
      report(error);
      yield lastWords;
    }
  };
}

/** Sent first and during silence: it makes proxies release the response, and no client sees an event. */
export const COMMENT: Uint8Array<ArrayBuffer> = encoder.encode(":\n\n");

/** `no-transform` keeps compressors away; `no-store`, because a browser reads ahead what it may store. */
export const STREAM_HEADERS = {
  "content-type": "text/event-stream",
  "cache-control": "no-store, no-transform",
  "x-accel-buffering": "no",
} as const;
// ANCHOR_END: encode
