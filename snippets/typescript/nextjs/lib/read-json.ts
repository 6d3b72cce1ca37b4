// ANCHOR: read-json
import { iterate } from "@/streaming/streams/readable.ts";

/** The body as JSON; undefined when it is none or larger than `maxBytes`. Next bounds the body of no route handler. */
export async function readJson(request: Request, maxBytes: number): Promise<unknown> {
  // A page of another site can send a form or plain text with the user's cookies; for this type browsers ask first.
  if (!/^application\/json\b/i.test(request.headers.get("content-type") ?? "")) return undefined;
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body ? iterate(request.body) : []) {
    size += chunk.byteLength;
    if (size > maxBytes) return undefined; // leaving the loop cancels the body
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8")) as unknown;
  } catch {
    return undefined;
  }
}
// ANCHOR_END: read-json
