// The servers of anti-patterns, for their tests and for `stream-probe`.
import { encodeEvent } from "../../src/sse/encode.ts";
import { pullFrom } from "../../src/streams/readable.ts";

export async function* failingProvider(): AsyncGenerator<string> {
  yield "token";
  throw new Error("upstream 529: key sk-secret is over its limit");
}

/** throw-after-200: an error of the provider rejects the stream. */
export const throwAfter200 = (): ReadableStream<Uint8Array> =>
  pullFrom(async function* () {
    for await (const text of failingProvider()) yield encodeEvent({ type: "text", data: { text } });
  });

/** upstream-not-aborted: the provider does not learn that the client has left. */
export const upstreamNotAborted = (url: string, init?: RequestInit): ReadableStream<Uint8Array> =>
  new ReadableStream<Uint8Array>({
    async start(controller) {
      const upstream = await fetch(url, init);
      for await (const chunk of upstream.body!) controller.enqueue(chunk);
      controller.close();
    },
  });

/** ws-server-without-error-listener: a program for a process of its own, which prints its port. */
export const webSocketServer = (listener: string): string => `
  import { createServer } from "node:http";
  import { WebSocketServer } from "ws";
  const http = createServer();
  const wss = new WebSocketServer({ server: http });
  wss.on("connection", (socket) => { ${listener} });
  http.listen(0, "127.0.0.1", () => console.log(http.address().port));
  process.stdin.on("end", () => process.exit(0)).resume();
`;
