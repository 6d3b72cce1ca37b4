// Wrong: a route handler of Next.js that enqueues in a loop in start()
// Harm: Next honors backpressure, start() does not: for a client that does not read, the server produces everything and holds it in memory
// Instead: streams/nextjs
// Probe: cannot see: bytes, no events: what Next holds in memory shows as nextjs-provider-not-told
import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";
import { expect, onTestFinished, test } from "vitest";
import { origin, state } from "../support/nextjs.ts";
import { eventually } from "../support/server.ts";

const SIZE = 1_000;

async function stalled(path: string): Promise<void> {
  const request = get(origin() + path);
  onTestFinished(() => void request.destroy());
  const [response] = (await once(request, "response")) as [IncomingMessage];
  response.pause();
}

test("a client that reads nothing makes the loop run to its end", async () => {
  await stalled("/wrong/start-loop");
  await eventually(async () => (await state()).counters["started"] === SIZE);
  // The same chunks from pull(): nextjs-sse.test.ts stalls that route.
  expect((await state()).counters["started"]).toBe(SIZE);
});
