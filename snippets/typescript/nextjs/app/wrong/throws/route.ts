// Wrong: an error of the provider rejects the body.
import { encodeEvent, STREAM_HEADERS } from "@/streaming/sse/encode.ts";
import { pullFrom } from "@/streaming/streams/readable.ts";

export function GET(request: Request): Response {
  if (new URL(request.url).searchParams.has("early")) throw new Error("before the first chunk");
  const events = pullFrom(async function* () {
    yield encodeEvent({ type: "text", data: { text: "token" } });
    throw new Error("upstream 529: key sk-secret is over its limit");
  });
  return new Response(events, { headers: STREAM_HEADERS });
}
