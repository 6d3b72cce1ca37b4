// Wrong: nothing is sent before there is an event.
import { jobs } from "@/lib/jobs.ts";
import { encodeEvent, STREAM_HEADERS } from "@/streaming/sse/encode.ts";
import { pullFrom } from "@/streaming/streams/readable.ts";

export async function GET(request: Request, { params }: { params: Promise<{ id: string }> }): Promise<Response> {
  const log = jobs.get((await params).id)!;
  const events = pullFrom(async function* () {
    for await (const event of log.read(null, request.signal)) yield encodeEvent(event);
  });
  return new Response(events, { headers: STREAM_HEADERS });
}
