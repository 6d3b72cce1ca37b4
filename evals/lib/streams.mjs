// Graders of streamed bodies: ndjson-export (Rust), stream-export (TypeScript).
import { spawn } from "node:child_process";
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { cpu, eventually, freePort, json, memory, request, sleep } from "./tools.mjs";

/** Opens an answer that is not read. */
function unread(port, target) {
  return new Promise((resolve, reject) => {
    const req = http.get({ port, host: "127.0.0.1", path: target, agent: false }, (response) => {
      response.on("error", () => {});
      resolve({ response, close: () => req.destroy() });
    });
    req.on("error", reject);
  });
}

export async function ndjson(ctx) {
  const port = await freePort();
  const service = await ctx.start(port, { STALL_MS: "2000" });
  const stats = () => json(port, "GET", "/stats");
  const lines = (text) =>
    text
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  const idle = (ms, what) => eventually(ms, what, async () => (await stats()).open === 0);

  await ctx.check("stream-complete", async () => {
    const { text, headers, cut } = await request(port, "GET", "/export?rows=1000");
    const all = lines(text);
    if (
      cut ||
      all.length !== 1001 ||
      all[0].row !== 1 ||
      all[999].row !== 1000 ||
      all[1000].done !== true ||
      all[1000].rows !== 1000
    )
      throw new Error(`${all.length} lines, the last ${JSON.stringify(all.at(-1))}`);
    if (!/ndjson/.test(headers["content-type"])) throw new Error(headers["content-type"]);
    return "1000 rows and the last line";
  });
  await ctx.check("stream-errors-in-band", async () => {
    const { text, cut } = await request(port, "GET", "/export?rows=50&fail_at=20");
    const all = text.split("\n").filter(Boolean);
    const last = all.length === 20 ? JSON.parse(all[19]) : {};
    if (cut || typeof last.error !== "string")
      throw new Error(
        `after a failure at row 20 came ${all.length} lines and ${cut ? "a cut body" : `the end ${all.at(-1)}`}`,
      );
    if (/db-7|5432|lost/.test(text)) throw new Error(`the client is told ${all[19]}`);
    return `19 rows, then ${all[19]}`;
  });
  await ctx.check("stream-cancel-reaches-source", async () => {
    const reader = await unread(port, "/export?rows=1000&pause_at=5");
    reader.response.resume();
    await eventually(5_000, "no cursor is open", async () => (await stats()).open === 1);
    await sleep(100);
    reader.close();
    await idle(3_000, "the cursor stays open for a client that left while the database was silent");
    return "the cursor is closed when the client leaves, also while the database is silent";
  });
  await ctx.check("stream-head-reads-nothing", async () => {
    const before = (await stats()).read;
    await request(port, "HEAD", "/export?rows=20000");
    await idle(3_000, "HEAD leaves a cursor open");
    await sleep(100);
    const { read } = await stats();
    if (read - before > 64) throw new Error(`HEAD read ${read - before} rows`);
    return "HEAD reads nothing";
  });
  let reader;
  let waits = false;
  await ctx.check("stream-slow-reader-bounded", async () => {
    const before = { memory: memory(service.pid), ...(await stats()) };
    reader = await unread(port, "/export?rows=1000000");
    let read = -1;
    await eventually(15_000, "the export goes on reading the database for a client that reads nothing", async () => {
      const now = (await stats()).read;
      const same = now === read;
      read = now;
      await sleep(400);
      return same;
    });
    const grown = Math.round((memory(service.pid) - before.memory) / 1024);
    if (read - before.read > 100_000 || grown > 24)
      throw new Error(`${read - before.read} rows read and ${grown} MiB held for a client that reads nothing`);
    waits = true;
    return `stopped after ${read - before.read} rows, ${grown} MiB more`;
  });
  await ctx.check("stream-stalled-peer-cut", async () => {
    // Who reads everything at once has freed its cursor, and its connection is still open.
    if (!waits) throw new Error("the export does not wait for its reader");
    await idle(8_000, "the cursor is still held 8 s later for a client that reads nothing, at STALL_MS=2000");
    return "a client that reads nothing loses its connection, and the cursor is free";
  });
  reader?.close();
  await ctx.check("stream-slow-reader-kept", async () => {
    const slow = await unread(port, "/export?rows=60000");
    let text = "";
    let paused = 0;
    slow.response.on("data", (data) => {
      text += data;
      if (text.length / 500_000 > paused + 1) {
        paused++;
        slow.response.pause();
        setTimeout(() => slow.response.resume(), 200);
      }
    });
    await new Promise((resolve) => {
      slow.response.once("close", resolve);
      setTimeout(resolve, 30_000);
    });
    slow.close();
    const last = text.trimEnd().split("\n").at(-1);
    if (!last.includes('"done"')) throw new Error(`a slow reader got ${text.length} bytes and no last line`);
    return "a client that reads slowly gets everything";
  });
  if (ctx.costs) {
    const before = cpu(service.pid);
    await request(port, "GET", "/export?rows=20000", { ms: 60_000 });
    ctx.cost.cpu_us_per_row = Math.round((cpu(service.pid) - before) / 20);
  }
}

/** The module of the solution runs in a process of its own, for each check: what it throws out of turn must not end the grader. */
export const module = (scenarios, file) => async (ctx) => {
  const run = (scenario) =>
    new Promise((resolve, reject) => {
      const script = path.join(path.dirname(fileURLToPath(import.meta.url)), scenarios);
      const child = spawn(process.execPath, ["--expose-gc", script, scenario, path.join(ctx.folder, file)], {
        env: { PATH: process.env.PATH, NODE_NO_WARNINGS: "1" },
      });
      let out = "";
      child.stdout.on("data", (data) => (out += data));
      child.stderr.on("data", (data) => (out += data));
      const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
      child.once("close", (code, signal) => {
        clearTimeout(timer);
        const last = out.trim().split("\n").at(-1) ?? "";
        if (code === 0) resolve(last);
        else reject(new Error(signal ? `no end within 60 s: ${last}` : (/Error: .*/.exec(out)?.[0] ?? last)));
      });
    });
  for (const id of ctx.results.keys()) await ctx.check(id, () => run(id));
};
