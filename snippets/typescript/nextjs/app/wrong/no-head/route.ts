// Wrong: Next answers HEAD with the GET.
import { count } from "../../testing/counters.ts";

export function GET(request: Request): Response {
  void request.headers;
  return new Response(
    new ReadableStream({
      start() {
        count("work begun");
      },
      cancel() {
        count("work cancelled");
      },
    }),
    { headers: { "content-type": "text/event-stream" } },
  );
}
