// websocket/flow: backpressure for messages: credits, or WebSocketStream.
//
// Use it where the server can send faster than the page works: exports, logs, model output. A WebSocket has no
// backpressure in the browser: messages pile up in its memory. Stands alone, and does not reconnect.
// Promise: `creditedMessages` holds at most `window` messages, if the server counts credits as below;
// `streamedMessages` needs no protocol, but only Chromium has WebSocketStream.

// ANCHOR: credits
/** The server sends one data message for each credit, and waits when it has none. */
export interface CreditMessage {
  type: "credit";
  count: number;
}

/** The server does not keep to the credits that it was given. */
export class CreditError extends Error {
  override readonly name = "CreditError";
}

/** Yields the messages of an open socket one at a time; leaving the loop closes it. */
export async function* creditedMessages(
  socket: WebSocket,
  window = 32,
): AsyncGenerator<string | ArrayBuffer, void, void> {
  const queue: (string | ArrayBuffer)[] = [];
  let wake = (): void => undefined;
  let ended = false;
  let broken = false;
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
    if (queue.length < window) queue.push(data);
    else broken = true;
    wake();
  };
  socket.onclose = () => {
    ended = true;
    wake();
  };
  const grant = (count: number): void => {
    const message: CreditMessage = { type: "credit", count };
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  };
  try {
    grant(window);
    let consumed = 0;
    for (;;) {
      while (queue.length > 0) {
        yield queue.shift()!;
        // In halves: one grant for each message would double the messages, one for all of them would
        // let the server wait for the way back and forth.
        if (++consumed >= window / 2) {
          grant(consumed);
          consumed = 0;
        }
      }
      if (broken) throw new CreditError(`more than ${window} messages without credit`);
      if (ended) return;
      await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    socket.close(1000);
  }
}
// ANCHOR_END: credits

// ANCHOR: stream
interface WebSocketStream {
  readonly opened: Promise<{
    readable: ReadableStream<string | Uint8Array>;
    writable: WritableStream<string | BufferSource>;
  }>;
  close(info?: { closeCode?: number; reason?: string }): void;
}
type WebSocketStreamConstructor = new (
  url: string | URL,
  options?: { protocols?: string[]; signal?: AbortSignal },
) => WebSocketStream;

/** Undefined where the browser has no WebSocketStream: everywhere but in Chromium 124 and later (November 2026). */
export function streamedMessages(url: string | URL): AsyncGenerator<string | Uint8Array, void, void> | undefined {
  const Stream = (globalThis as { WebSocketStream?: WebSocketStreamConstructor }).WebSocketStream;
  if (Stream === undefined) return undefined;
  return (async function* () {
    const socket = new Stream(url);
    try {
      const { readable } = await socket.opened;
      const reader = readable.getReader();
      // Not read, the socket is not read either, and TCP stops the server.
      for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
    } finally {
      socket.close();
    }
  })();
}
// ANCHOR_END: stream
