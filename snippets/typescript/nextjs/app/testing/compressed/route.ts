// Events without `no-transform`, from a function of at most one second.
import { jobs } from "@/lib/jobs.ts";
import { encodeEvent } from "@/streaming/sse/encode.ts";
import { pullFrom } from "@/streaming/streams/readable.ts";

export const maxDuration = 1;

export function GET(request: Request): Response {
  const log = jobs.get(new URL(request.url).searchParams.get("job") ?? "")!;
  const events = pullFrom(async function* (signal) {
    for await (const event of log.read(null, signal)) yield encodeEvent(event);
  });
  return new Response(events, { headers: { "content-type": "text/event-stream", "cache-control": "no-cache" } });
}
