// As much as the client reads, in chunks of 64 KiB.
import { pullFrom } from "@/streaming/streams/readable.ts";
import { count } from "../counters.ts";

export function GET(request: Request): Response {
  void request.headers;
  return new Response(
    pullFrom(async function* () {
      for (let nth = 0; nth < 1_000; nth++) {
        count("pulled");
        yield new Uint8Array(65_536);
      }
    }),
  );
}
