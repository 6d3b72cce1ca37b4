// The pattern sse/connect, with the names of the task.
import { connect } from "../../../snippets/typescript/src/sse/connect.ts";

export async function* subscribe(url: string, options: any): AsyncGenerator<any, void, void> {
  const { signal, idleMs = 45_000, minDelayMs = 1_000, maxDelayMs = 30_000, maxEventChars = 1_000_000 } = options;
  const named = { signal, idleTimeout: idleMs, minDelay: minDelayMs, maxDelay: maxDelayMs, maxEventSize: maxEventChars };
  for await (const { type, data, lastEventId: id } of connect(url, named)) {
    yield { type, data, id };
    if (type === "end") return; // leaving the loop closes the connection
  }
}
