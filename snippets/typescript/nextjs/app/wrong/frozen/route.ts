// Wrong: looks at nothing of its request, so `next build` runs it and keeps what it said.
import { encodeEvent, STREAM_HEADERS } from "@/streaming/sse/encode.ts";

export function GET(): Response {
  const body = new ReadableStream({
    start(controller) {
      for (let step = 1; step <= 3; step++) controller.enqueue(encodeEvent({ data: { step, process: process.pid } }));
      controller.close();
    },
  });
  return new Response(body, { headers: STREAM_HEADERS });
}
