// Wrong: produces in start().
import { count } from "../../testing/counters.ts";

async function* source(): AsyncGenerator<Uint8Array> {
  for (let nth = 0; nth < 1_000; nth++) {
    count("started");
    await new Promise((resolve) => setImmediate(resolve));
    yield new Uint8Array(65_536);
  }
}

export function GET(request: Request): Response {
  void request.headers;
  return new Response(
    new ReadableStream({
      async start(controller) {
        for await (const chunk of source()) controller.enqueue(chunk);
        controller.close();
      },
    }),
  );
}
