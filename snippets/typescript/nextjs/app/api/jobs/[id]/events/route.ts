// Events of one job, for EventSource and for `sse/connect.ts`.
// ANCHOR: route
import { jobs } from "@/lib/jobs.ts";
import { encodeEvent, STREAM_HEADERS } from "@/streaming/sse/encode.ts";
import { pullFrom, withHeartbeat } from "@/streaming/streams/readable.ts";

export async function GET(request: Request, { params }: { params: Promise<{ id: string }> }): Promise<Response> {
  // Authenticate here: after the first chunk, a 401 is no longer possible.
  const log = jobs.get((await params).id);
  if (log === undefined) return new Response(null, { status: 404 });
  // A page that builds a new EventSource can send its cursor in the query only.
  const cursor = request.headers.get("last-event-id") ?? new URL(request.url).searchParams.get("lastEventId");
  if (log.isFinished(cursor)) return new Response(null, { status: 204 });
  const events = pullFrom(async function* (signal) {
    // Both abort when the client disconnects: one from the request, one from the body.
    for await (const event of log.read(cursor, AbortSignal.any([signal, request.signal]))) yield encodeEvent(event);
  });
  // Visible to pages, unlike a comment. `retry` differs, so that the clients of a server that restarts do not return together.
  const ping = encodeEvent({ type: "ping", retry: 1_000 + 2_000 * Math.random(), data: {} });
  // Next holds back the response headers until the first chunk, so the first ping is sent immediately.
  return new Response(withHeartbeat(events, ping), { headers: STREAM_HEADERS });
}
// ANCHOR_END: route
