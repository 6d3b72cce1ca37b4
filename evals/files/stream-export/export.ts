// The body of our export: rows of the database as NDJSON, for a Response.
// Used as: new Response(withAudit(exportRows((signal) => db.query(sql, { signal })), auditLog))

export type Rows = (signal: AbortSignal) => AsyncIterable<object>;

export interface Audit {
  /** Stores a chunk; resolves when it is stored, which may take long. */
  write(chunk: Uint8Array): Promise<void>;
  /** Called once. `complete`: every chunk of a whole export was written. */
  close(result: { complete: boolean }): void;
}

const encoder = new TextEncoder();
const line = (value: object) => encoder.encode(`${JSON.stringify(value)}\n`);

/** One line for each row, {"ping":true} in silence, at the end {"done":true,"rows":n}. */
export function exportRows(rows: Rows, { heartbeatMs = 15_000 } = {}): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>({
    async start(controller) {
      setInterval(() => controller.enqueue(line({ ping: true })), heartbeatMs);
      let count = 0;
      for await (const row of rows(new AbortController().signal)) {
        controller.enqueue(line(row));
        count++;
      }
      controller.enqueue(line({ done: true, rows: count }));
      controller.close();
    },
  });
}

/** Passes the export on, and writes a copy of it into the audit log. */
export function withAudit(stream: ReadableStream<Uint8Array>, audit: Audit): ReadableStream<Uint8Array> {
  const [forClient, forAudit] = stream.tee();
  void (async () => {
    for await (const chunk of forAudit) await audit.write(chunk);
    audit.close({ complete: true });
  })();
  return forClient;
}
