// Graders of the SSE services: sse-feed, sse-jobs.
import http from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { cpu, Events, eventually, freePort, idleMemory, json, memory, probe, request, sleep } from "./tools.mjs";

const PUBLISH = path.join(path.dirname(fileURLToPath(import.meta.url)), "publish.mjs");

/** Posts orders `from`..`to`, some at a time, over connections that stay open. */
async function publish(port, from, to, { size = 0, atOnce = 4 } = {}) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: atOnce });
  let next = from;
  const one = (n) =>
    new Promise((resolve, reject) => {
      const headers = { "content-type": "application/json" };
      const req = http.request({
        port,
        host: "127.0.0.1",
        method: "POST",
        path: "/orders",
        headers,
        agent,
        timeout: 10_000,
      });
      req.once("timeout", () => req.destroy(new Error("POST /orders: no answer within 10 s")));
      req.once("error", reject);
      req.once("response", (response) => {
        response.resume();
        response.once("end", () =>
          response.statusCode < 300 ? resolve() : reject(new Error(`POST /orders: ${response.statusCode}`)),
        );
      });
      req.end(JSON.stringify({ n, pad: "x".repeat(size) }));
    });
  const worker = async () => {
    while (next < to) await one(next++);
  };
  await Promise.all(Array.from({ length: atOnce }, worker)).finally(() => agent.destroy());
}

const n = (event) => JSON.parse(event.data).n;
const isOrder = (event) => event.type === "order";

/** A client that reads some orders, breaks off, and comes back with its cursor, until it has `total`. */
async function reconnecting(port, total, each) {
  const seen = [];
  let id = "";
  for (let round = 0; seen.length < total; round++) {
    if (round > total) throw new Error(`${seen.length} of ${total} orders after ${round} connections`);
    const stream = await Events.open(port, "/events", { headers: id === "" ? {} : { "last-event-id": id } });
    for (let i = 0; i < each && seen.length < total; ) {
      const event = await stream.next();
      if (event === null) break;
      if (event.type === "reset") throw new Error(`reset at ${id} although the order after it is kept`);
      if (!isOrder(event)) continue;
      seen.push(n(event));
      id = event.id;
      i++;
    }
    stream.close();
  }
  return seen;
}

const PROBED = [
  "sse-headers-before-first-event",
  "sse-gzip-incremental",
  "sse-no-buffering-headers",
  "sse-heartbeat",
  "sse-heartbeat-visible",
  "sse-head-finishes",
  "sse-resume-no-gap",
  "sse-resume-no-duplicate",
  "sse-cursor-garbage",
  "sse-cursor-future",
  "sse-fan-out-order",
  "sse-disconnect-noticed",
  "sse-errors-clean",
];

export async function feed(ctx) {
  const port = await freePort();
  let service = await ctx.start(port, { HEARTBEAT_MS: "1000" });
  const events = (options) => Events.open(port, "/events", options);

  await ctx.probed(PROBED, () => {
    const args = [
      "--publish",
      `"${process.execPath}" "${PUBLISH}" ${port} /orders`,
      "--pid",
      String(service.pid),
      "--heartbeat",
      "3",
      "--connects",
      "30",
      "--client",
      "eventsource",
    ];
    return probe("sse", `http://127.0.0.1:${port}/events`, PROBED, args, 60);
  });

  const restart = async () => {
    await service.kill();
    service = await ctx.start(port, { HEARTBEAT_MS: "1000" });
  };
  await restart();
  await publish(port, 0, 400, { atOnce: 1 });
  const before = await events();
  const old = (await before.take(301)).filter(isOrder).at(-1);
  before.close();
  await restart();
  await publish(port, 0, 400, { atOnce: 1 });
  await ctx.check("sse-reset-after-restart", async () => {
    const stream = await events({ headers: { "last-event-id": old.id } });
    const told = await stream.next();
    stream.close();
    if (told?.type !== "reset")
      throw new Error(`an id from before the restart (${old.id}) was continued with ${JSON.stringify(told)}`);
    return "an id from before the restart is answered with reset";
  });
  await ctx.check("sse-reset-after-trim", async () => {
    const fresh = await events();
    const first = (await fresh.take(3)).find(isOrder);
    fresh.close();
    await publish(port, 400, 520, { atOnce: 1 });
    const stream = await events({ headers: { "last-event-id": first.id } });
    const told = await stream.next();
    if (told?.type !== "reset") throw new Error(`after the id of order 0, long gone, came ${JSON.stringify(told)}`);
    const event = await stream.next();
    stream.close();
    if (n(event) !== 20) throw new Error(`after reset came order ${n(event)}, the oldest kept is 20`);
    return "reset, then the oldest order that is kept";
  });

  await ctx.check("sse-resume-under-load", async () => {
    await restart();
    const clients = [7, 13, 29, 400].map((each) => reconnecting(port, 400, each));
    await Promise.all([publish(port, 0, 400), ...clients]);
    const seen = await Promise.all(clients);
    const problem = seen.find((list) => new Set(list).size !== 400 || list.some((value, i) => value !== seen[0][i]));
    if (problem)
      throw new Error(
        `the readers saw different orders: ${problem.length} with ${new Set(problem).size} different ones`,
      );
    return "four readers with many reconnects saw 400 orders once, in one order";
  });

  await ctx.check("sse-limit-counts-streams", async () => {
    await restart();
    const open = await Promise.all(Array.from({ length: 200 }, () => events()));
    const full = open.find((stream) => stream.status !== 200);
    if (full) throw new Error(`one of the first 200 got ${full.status}`);
    const refused = await events();
    refused.close();
    try {
      if (refused.status !== 503) throw new Error(`with 200 open the next got ${refused.status}`);
      open.pop().close();
      await eventually(30_000, "the place of a client that left is not given again", async () => {
        const again = await events();
        again.close();
        return again.status === 200;
      });
    } finally {
      open.forEach((stream) => stream.close());
    }
    return "200 are open, the next gets 503, and a place that is left is given again";
  });
  await sleep(300);

  await ctx.check("sse-stalled-reader-memory", async () => {
    await publish(port, 0, 600, { size: 16_000 });
    const before = memory(service.pid);
    const stalled = await Promise.all(Array.from({ length: 10 }, () => events()));
    stalled.forEach((stream) => stream.response.pause());
    const reader = await events();
    await publish(port, 600, 2400, { size: 16_000 });
    await eventually(60_000, "a reader beside them did not get the last order", () =>
      reader.all.some((e) => isOrder(e) && n(e) === 2399),
    );
    const grown = Math.round((memory(service.pid) - before) / 1024);
    stalled.forEach((stream) => stream.close());
    reader.close();
    if (grown > 150) throw new Error(`${grown} MiB more for 10 readers that do not read`);
    return `${grown} MiB more for 10 readers that do not read 29 MB each`;
  });

  await ctx.check("sse-lag-is-told", async () => {
    const stream = await events();
    await stream.next();
    stream.response.pause();
    // One at a time: the order is known, so that the first one after a reset is no straggler.
    await publish(port, 3000, 5500, { size: 16_000, atOnce: 1 });
    await publish(port, 5500, 5501);
    stream.response.resume();
    const all = [];
    const read = async (from) => {
      for (let event; (event = await from.next(10_000)); ) {
        all.push(event);
        if (isOrder(event) && n(event) === 5500) return true;
      }
      return false;
    };
    if (!(await read(stream))) {
      const last = all.filter((event) => event.id).at(-1)?.id ?? "";
      await read(await events({ headers: { "last-event-id": last } }));
    }
    stream.close();
    let high = 2999;
    for (const event of all) {
      if (event.type === "reset") high = -1;
      if (!isOrder(event) || n(event) < 3000) continue;
      if (high >= 0 && n(event) > high + 1) throw new Error(`order ${n(event)} came after ${high} without a reset`);
      high = Math.max(high, n(event));
    }
    if (high !== 5500) throw new Error(`the reader that fell behind ended at ${high}`);
    return "a reader that fell behind missed nothing without a reset";
  });

  if (ctx.costs) {
    const reader = await Promise.all(Array.from({ length: 40 }, () => events()));
    await sleep(500);
    const from = cpu(service.pid);
    await publish(port, 10_000, 10_200);
    await eventually(10_000, "the last order", () =>
      reader.every((s) => s.all.some((e) => isOrder(e) && n(e) >= 10_195)),
    ).catch(() => {});
    ctx.cost.cpu_us_per_delivery = Math.round(((cpu(service.pid) - from) * 1000) / (40 * 200));
    reader.forEach((stream) => stream.close());
    await service.kill();
    service = await ctx.start(port, {});
    ctx.cost.kib_per_idle_connection = await idleMemory(service, 150, () => events());
    await sleep(200);
  }

  await ctx.check("sse-shutdown-ends-streams", () => shutdown(service, () => events()));
}

async function shutdown(service, open) {
  const streams = await Promise.all(Array.from({ length: 5 }, open));
  const end = await service.terminate(5_000);
  if (end.killed) throw new Error("still running 5 s after SIGTERM with 5 open streams");
  if (end.code !== 0) throw new Error(`ended with ${end.code ?? end.signal} after SIGTERM`);
  const cut = streams.filter((stream) => stream.end !== "clean").length;
  if (cut > 0) throw new Error(`${cut} of 5 responses were cut instead of finished`);
  return `ended after ${end.took} ms with 5 open streams, all finished`;
}

export async function jobs(ctx) {
  const port = await freePort();
  const service = await ctx.start(port);
  const create = async (job) =>
    (await json(port, "POST", "/jobs", { body: { label: "import", steps: 4, step_ms: 20, ...job } })).id;
  const events = (id, cursor) =>
    Events.open(port, `/jobs/${id}/events`, { headers: cursor ? { "last-event-id": cursor } : {} });
  const read = async (id, cursor) => {
    const stream = await events(id, cursor);
    const all = [];
    for (let event; (event = await stream.next()); ) {
      all.push(event);
      if (event.type === "done" || event.type === "failed") break;
    }
    await Promise.race([stream.ended, sleep(1_000)]);
    stream.close();
    return { status: stream.status, all, last: all.at(-1), end: stream.end };
  };
  const steps = (all) =>
    all
      .filter((event) => event.type === "step")
      .map((event) => JSON.parse(event.data).step)
      .join();

  await ctx.check("sse-done-dispatched", async () => {
    const { all, last } = await read(await create());
    if (steps(all) !== "1,2,3,4") throw new Error(`steps ${steps(all)}`);
    if (last.type !== "done" || JSON.parse(last.data).steps !== 4)
      throw new Error(`a browser sees no done {"steps":4}, the last event is ${JSON.stringify(last)}`);
    return "four steps, then done";
  });
  await ctx.check("sse-terminal-event", async () => {
    const id = await create();
    const { last } = await read(id);
    if (!last?.id) throw new Error("the last event that a browser sees has no id to come back with");
    const again = await Events.open(port, `/jobs/${id}/events`, { headers: { "last-event-id": last.id } });
    const more = again.status === 204 ? null : await again.next(2_000).catch(() => null);
    again.close();
    if (again.status !== 204)
      throw new Error(
        `EventSource comes back after the end and gets ${again.status}${more ? ` and ${more.type}` : ""}: it never stops`,
      );
    return "204 for a client that has the last event";
  });
  await ctx.check("sse-get-starts-no-work", async () => {
    const before = (await json(port, "GET", "/stats")).runs;
    const id = await create();
    await request(port, "HEAD", `/jobs/${id}/events`);
    await Promise.all([read(id), read(id)]);
    await read(id);
    const runs = (await json(port, "GET", "/stats")).runs - before;
    if (runs !== 1) throw new Error(`one job ran ${runs} times for HEAD and three readers`);
    return "one job, one run, whoever watches";
  });
  await ctx.check("sse-work-outlives-reader", async () => {
    const id = await create({ steps: 6, step_ms: 40 });
    const stream = await events(id);
    await stream.next();
    stream.close();
    await sleep(400);
    const started = Date.now();
    const { all, last } = await read(id);
    if (last?.type !== "done") throw new Error(`a reader that comes after the end gets ${JSON.stringify(last)}`);
    if (Date.now() - started > 200 + 1_000) throw new Error("the job was run again");
    return `a reader that comes after the end gets ${all.length} events`;
  });
  await ctx.check("sse-resume-no-duplicate", async () => {
    const id = await create({ steps: 8, step_ms: 40 });
    const stream = await events(id);
    const seen = await stream.take(3);
    stream.close();
    const { all } = await read(id, seen.at(-1).id);
    const both = steps([...seen, ...all]);
    if (both !== "1,2,3,4,5,6,7,8") throw new Error(`over a reconnect the page saw the steps ${both}`);
    return "a page that reconnects sees each step once";
  });
  await ctx.check("sse-fields-checked", async () => {
    for (const label of ["two\nlines", "a\r\nevent: done\r\ndata: {}\r\n\r\n", "nul\0", "übung"]) {
      const { all, last } = await read(await create({ label })).catch((error) => ({ all: [], last: String(error) }));
      const wrong = all.find((event) => event.type === "step" && JSON.parse(event.data).label !== label);
      if (steps(all) !== "1,2,3,4" || wrong)
        throw new Error(
          `label ${JSON.stringify(label)}: steps ${steps(all) || "none"}, ${JSON.stringify(wrong ?? last)}`,
        );
    }
    return "labels with line breaks, NUL and umlauts arrive whole";
  });
  await ctx.check("sse-errors-in-band", async () => {
    const { all, last, end } = await read(await create({ fail_at: 3 }));
    if (last?.type !== "failed")
      throw new Error(`a failing job shows ${steps(all) || "nothing"} and no failed event; the response ends ${end}`);
    if (JSON.stringify(all).includes("/dev/sdb1") || typeof JSON.parse(last.data).code !== "string")
      throw new Error(`failed says ${last.data}`);
    return "steps 1 and 2, then failed with a code";
  });
  await ctx.check("sse-unknown-404", async () => {
    const { status } = await request(port, "GET", "/jobs/999999/events");
    if (status !== 404) throw new Error(`an unknown job gets ${status}`);
    return "404";
  });
  if (ctx.costs) {
    const id = await create({ steps: 2, step_ms: 60_000 });
    ctx.cost.kib_per_idle_connection = await idleMemory(service, 150, () => events(id));
    await sleep(200);
  }
  await ctx.check("sse-shutdown-ends-streams", async () => {
    const id = await create({ steps: 2, step_ms: 60_000 });
    return shutdown(service, () => events(id));
  });
}
