// One scenario of stream-export: `node export-scenarios.mjs CHECK MODULE`. Exit 0 and a last line of evidence, or an error.
import { assert, run, solution, uncaught } from "./scenario.mjs";
import { eventually, sleep, within } from "./tools.mjs";

const { exportRows, withAudit } = solution;
const decode = (chunks) => new TextDecoder().decode(Buffer.concat(chunks));

/** A database: `made` rows so far, `open` until left. Without `obeys` it ignores the signal, as many drivers do. */
function source(count, { silentAt = -1, failAt = -1, size = 10 } = {}) {
  const state = { made: 0, open: 0, aborted: false };
  state.rows = (signal) => {
    signal?.addEventListener("abort", () => (state.aborted = true));
    return (async function* () {
      state.open++;
      try {
        for (let n = 1; n <= count; n++) {
          if (n === silentAt)
            await new Promise((resolve, reject) => {
              const timer = setTimeout(resolve, 60_000);
              signal?.addEventListener("abort", () => {
                clearTimeout(timer);
                reject(signal.reason);
              });
            });
          if (n === failAt) throw new Error("connection to db-7.internal was lost");
          state.made++;
          yield { n, pad: "x".repeat(size) };
        }
      } finally {
        state.open--;
      }
    })();
  };
  return state;
}

async function readAll(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const lines = decode(chunks)
    .split("\n")
    .filter((line) => line.trim() !== "");
  return lines.map((line) => JSON.parse(line)).filter((line) => !("ping" in line));
}

const scenarios = {
  async "stream-complete"() {
    const lines = await readAll(exportRows(source(50).rows));
    assert(
      lines.length === 51 && lines[49].n === 50 && lines[50].done === true && lines[50].rows === 50,
      `last line ${JSON.stringify(lines.at(-1))} of ${lines.length}`,
    );
    return "50 rows and the last line";
  },
  async "stream-js-pull"() {
    const db = source(100_000, { size: 1_000 });
    const reader = exportRows(db.rows).getReader();
    await reader.read();
    await sleep(300);
    assert(db.made <= 64, `${db.made} rows were read for a reader that took one chunk`);
    await reader.cancel();
    return `${db.made} rows were read for a reader that took one chunk`;
  },
  async "stream-js-cancel-aborts"() {
    const db = source(10, { silentAt: 3 });
    const reader = exportRows(db.rows, { heartbeatMs: 10_000 }).getReader();
    for (let text = ""; !text.includes('"n":2'); ) text += new TextDecoder().decode((await reader.read()).value);
    const pending = reader.read().catch(() => {});
    await sleep(50);
    await within(2_000, reader.cancel("left"), "cancel()");
    await pending;
    await eventually(
      2_000,
      "the rows are still open after cancel() while the database was silent",
      () => db.open === 0,
    );
    assert(db.aborted, "the signal given to the rows is not aborted");
    return "cancel() aborts the database's own wait";
  },
  async "stream-js-no-late-enqueue"() {
    for (const how of ["cancel", "end", "error"]) {
      const db = source(how === "cancel" ? 1_000 : 3, {
        silentAt: how === "cancel" ? 3 : -1,
        failAt: how === "error" ? 2 : -1,
      });
      const stream = exportRows(db.rows, { heartbeatMs: 20 });
      if (how === "cancel") {
        const reader = stream.getReader();
        await reader.read();
        await sleep(60);
        await reader.cancel();
      } else await readAll(stream).catch(() => {});
      await sleep(150);
    }
    assert(uncaught.length === 0, uncaught[0]);
    const timers = process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
    assert(timers === 0, `${timers} timers are left`);
    return "no timer is left and nothing is thrown after the end";
  },
  async "stream-js-heartbeat"() {
    const db = source(10, { silentAt: 3 });
    const reader = exportRows(db.rows, { heartbeatMs: 50 }).getReader();
    let text = "";
    const reading = (async () => {
      for (let part; !(part = await reader.read()).done; ) text += new TextDecoder().decode(part.value);
    })();
    reading.catch(() => {});
    await eventually(
      3_000,
      'no {"ping":true} lines while the database is silent',
      () => text.split('"ping"').length > 3,
    );
    await reader.cancel();
    // For a reader that does not read they must not pile up.
    const idle = exportRows(source(10, { silentAt: 3 }).rows, { heartbeatMs: 5 }).getReader();
    await sleep(500);
    const started = Date.now();
    let pings = 0;
    for (let part; (part = await within(2_000, idle.read(), "read")).value; ) {
      pings += new TextDecoder().decode(part.value).split('"ping"').length - 1;
      if (Date.now() - started > 4 || pings > 40) break;
    }
    await idle.cancel();
    assert(pings < 40, `${pings} pings had piled up for a reader that did not read`);
    return "pings while the database is silent, and none that pile up";
  },
  async "stream-js-errors-in-band"() {
    const lines = await readAll(exportRows(source(10, { failAt: 4 }).rows)).catch((error) => [
      { thrown: error.message },
    ]);
    const last = lines.at(-1);
    assert(
      lines.length === 4 && typeof last.error === "string",
      `a failure at row 4 gives ${JSON.stringify(lines.at(-1))} after ${lines.length - 1} rows`,
    );
    assert(!/db-7|lost/.test(JSON.stringify(lines)), `the client is told ${JSON.stringify(last)}`);
    return JSON.stringify(last);
  },
  async "stream-js-tee-bounded"() {
    const db = source(12_000, { size: 4_000 });
    let end;
    let kept = 0;
    const audit = {
      write: () => {
        kept++;
        return new Promise(() => {});
      },
      close: (result) => {
        end = result;
      },
    };
    globalThis.gc();
    const before = process.memoryUsage();
    const reader = withAudit(exportRows(db.rows), audit).getReader();
    let highest = 0;
    let bytes = 0;
    for (let i = 0; ; i++) {
      const { done, value } = await within(10_000, reader.read(), "the download waits for the audit");
      if (done) break;
      bytes += value.length;
      if (i % 1_000 === 0) {
        globalThis.gc();
        const now = process.memoryUsage();
        highest = Math.max(highest, now.heapUsed + now.external - before.heapUsed - before.external);
      }
    }
    assert(bytes > 48_000_000, `${bytes} bytes arrived`);
    const mib = Math.round(highest / 1048576);
    assert(mib < 24, `an audit that does not keep up holds ${mib} MiB`);
    await eventually(2_000, "close() of the audit was not called", () => end);
    assert(end.complete === false, `close(${JSON.stringify(end)}) for an audit that got ${kept} of 12,001 chunks`);
    return `at most ${mib} MiB for an audit that stands still, which is told that it is not complete`;
  },
  async "stream-js-audit-complete"() {
    const written = [];
    let end;
    const audit = { write: async (chunk) => void written.push(chunk), close: (result) => void (end = result) };
    const lines = await readAll(withAudit(exportRows(source(20).rows), audit));
    await eventually(2_000, "close() of the audit was not called", () => end);
    assert(
      lines.length === 21 && end.complete === true && decode(written).includes('"done":true'),
      `close(${JSON.stringify(end)}) after ${decode(written).length} bytes`,
    );
    // And when the client leaves in the middle.
    end = undefined;
    const db = source(1_000);
    const reader = withAudit(exportRows(db.rows), audit).getReader();
    await reader.read();
    await reader.cancel();
    await eventually(2_000, "close() of the audit was not called after cancel()", () => end);
    assert(end.complete === false, "an audit of a download that was cancelled is called complete");
    await eventually(2_000, "the rows are still open after cancel()", () => db.open === 0);
    return "complete: true after the last line, false after cancel()";
  },
};

await run(scenarios);
