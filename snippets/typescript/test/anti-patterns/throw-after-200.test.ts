// Wrong: no catch in the stream of a route: an error of the provider in the middle rejects the stream
// Harm: the 200 has been sent, so the client gets a cut body, loses whatever was queued, and gets no reason
// Instead: streams/readable
// Probe: fails sse-ends-cleanly

import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { expect, onTestFinished, test } from "vitest";
import { encodeEvent } from "../../src/sse/encode.ts";
import { eventStream } from "../../src/sse/event-stream.ts";
import { pullFrom } from "../../src/streams/readable.ts";
import { failingProvider, throwAfter200 } from "../support/wrong.ts";

const right = (): ReadableStream<Uint8Array> =>
  pullFrom(async function* () {
    try {
      for await (const text of failingProvider()) yield encodeEvent({ type: "text", data: { text } });
      yield encodeEvent({ type: "done", data: {} });
    } catch {
      yield encodeEvent({ type: "failed", data: { code: "model_failed", retryable: true } });
    }
  });

test("an error after the 200 is an event, with a code and no text of the provider", async () => {
  const server = createServer((request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    const body = request.url === "/wrong" ? throwAfter200() : right();
    pipeline(Readable.fromWeb(body as import("node:stream/web").ReadableStream), response).catch(() => undefined);
  }).listen(0, "127.0.0.1");
  onTestFinished(() => void server.close());
  await once(server, "listening");
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const read = async (path: string): Promise<string[]> => {
    const seen: string[] = [];
    try {
      const response = await fetch(origin + path);
      for await (const { type, data } of response.body!.pipeThrough(eventStream())) seen.push(`${type} ${data}`);
      seen.push("end");
    } catch (error) {
      seen.push((error as Error).name);
    }
    return seen;
  };
  expect((await read("/wrong")).at(-1)).toBe("TypeError");
  expect(await read("/right")).toEqual([
    'text {"text":"token"}',
    'failed {"code":"model_failed","retryable":true}',
    "end",
  ]);
});
