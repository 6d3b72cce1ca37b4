// The export on the pattern streams/readable.
import { copyOf, pullFrom, withHeartbeat } from "../../../snippets/typescript/src/streams/readable.ts";

export type Rows = (signal: AbortSignal) => AsyncIterable<object>;

export interface Audit {
  write(chunk: Uint8Array): Promise<void>;
  close(result: { complete: boolean }): void;
}

const encoder = new TextEncoder();
const line = (value: object): Uint8Array => encoder.encode(`${JSON.stringify(value)}\n`);

export function exportRows(rows: Rows, { heartbeatMs = 15_000 } = {}): ReadableStream<Uint8Array> {
  const lines = pullFrom(async function* (signal) {
    try {
      let count = 0;
      for await (const row of rows(signal)) {
        yield line(row);
        count++;
      }
      yield line({ done: true, rows: count });
    } catch (error) {
      if (signal.aborted) return;
      console.error("export:", error);
      yield line({ error: "export_failed" });
    }
  });
  return withHeartbeat(lines, line({ ping: true }), heartbeatMs);
}

export function withAudit(stream: ReadableStream<Uint8Array>, audit: Audit): ReadableStream<Uint8Array> {
  const [forClient, forAudit] = copyOf(stream, 1024 * 1024);
  const reader = forAudit.getReader();
  let told = false;
  let last = "";
  const tell = (complete: boolean): void => {
    if (!told) audit.close({ complete });
    told = true;
  };
  // The copy fails when it falls behind, and when the client leaves: also while a write is under way.
  reader.closed.catch(() => tell(false));
  void (async () => {
    try {
      for (;;) {
        const { done, value } = await reader.read();
        // After an error in the stream it ends as properly as after the last line.
        if (done) return tell(last.startsWith('{"done":true'));
        await audit.write(value);
        last = new TextDecoder().decode(value);
      }
    } catch {
      tell(false);
      await reader.cancel().catch(() => {});
    }
  })();
  return forClient;
}
