// Wrong: a timer that goes on after the client has left.
import { count } from "../../testing/counters.ts";

export function GET(request: Request): Response {
  void request.headers;
  let beats = 0;
  return new Response(
    new ReadableStream({
      start(controller) {
        const timer = setInterval(() => {
          if (++beats === 1_000) clearInterval(timer); // so that it ends with the tests
          count("beats");
          controller.enqueue(new TextEncoder().encode(":\n\n"));
        }, 20);
      },
    }),
    { headers: { "content-type": "text/event-stream" } },
  );
}
