// One scenario of sse-client: `node client-scenarios.mjs CHECK MODULE`. Exit 0 and a last line of evidence, or an error.
import http from "node:http";
import { assert, run, solution } from "./scenario.mjs";
import { eventually, sleep, within } from "./tools.mjs";

const { subscribe } = solution;

const END = "event: end\ndata: {}\nid: z\n\n";

/** A server that answers the n-th request with the n-th step, the last for all that follow. */
async function serve(...steps) {
  const state = { requests: [], open: 0 };
  const server = http.createServer((request, response) => {
    const at =
      state.requests.push({
        cursor: request.rawHeaders[request.rawHeaders.findIndex((name) => name.toLowerCase() === "last-event-id") + 1],
        headers: request.headers,
        when: Date.now(),
      }) - 1;
    if (!("last-event-id" in request.headers)) state.requests[at].cursor = undefined;
    state.open++;
    response.on("close", () => state.open--);
    steps[Math.min(at, steps.length - 1)](response, request);
  });
  server.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  state.url = `http://127.0.0.1:${server.address().port}/events`;
  return state;
}

const stream = (response) => {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.flushHeaders();
  return response;
};
const send = (text) => (response) => stream(response).end(text);
const fast = { minDelayMs: 10, maxDelayMs: 50 };

/** Everything up to the end of the generator: [events, how it ended]. */
async function collect(url, options = {}, ms = 8_000) {
  const events = [];
  const run = (async () => {
    for await (const event of subscribe(url, { signal: new AbortController().signal, ...fast, ...options }))
      events.push(event);
    return "returned";
  })();
  return [events, await within(ms, run, "the generator did not end").catch((error) => error)];
}
const short = (events) => events.map(({ type, data, id }) => `${type}/${data}/${id}`).join(" ");

const scenarios = {
  async "sse-fetch-any-chunking"() {
    const text =
      "\ufeff: hello\ndata: one\nid: 1\n\ndata:two\r\nid:2\r\n\r\ndata: a\rdata:  b\rid: 3\r\revent: named\ndata: zwölf 🎈 \u2028x\nid: 4\n\nid: 5\n\ndata\n\nunknown: x\ndata: six\nid: 6\n\n" +
      END;
    const wanted =
      "message/one/1 message/two/2 message/a\n b/3 named/zwölf 🎈 \u2028x/4 message//5 message/six/6 end/{}/z";
    const bytes = Buffer.from(text);
    for (const size of [1, 2, 3, 7, 1000]) {
      const server = await serve(async (response) => {
        stream(response);
        for (let i = 0; i < bytes.length; i += size) {
          response.write(bytes.subarray(i, i + size));
          if (size < 1000) await new Promise(setImmediate);
        }
        response.end();
      });
      const [events, how] = await collect(server.url);
      assert(
        how === "returned" && short(events) === wanted,
        `in chunks of ${size}: ${JSON.stringify(short(events))} ${how}`,
      );
    }
    return "CR, LF, CRLF, a BOM, UTF-8 and fields cut anywhere";
  },
  async "sse-parser-line-endings"() {
    const server = await serve((response) => void stream(response).write("data: x\r\r"));
    const events = subscribe(server.url, { signal: new AbortController().signal, ...fast });
    const { value } = await within(
      2_000,
      events.next(),
      "an event that ended with CR CR was held back until the next byte",
    );
    assert(value.data === "x", JSON.stringify(value));
    return "an event that ends with CR CR is given at once";
  },
  async "sse-client-end-is-no-success"() {
    const server = await serve(
      send("data: 1\nid: 1\n\n"),
      send("data: 2\nid: 2\n\n"),
      send(`data: 3\nid: 3\n\n${END}`),
    );
    const [events, how] = await collect(server.url);
    await sleep(200);
    assert(
      short(events) === "message/1/1 message/2/2 message/3/3 end/{}/z" && how === "returned",
      `${short(events)} ${how}`,
    );
    const cursors = server.requests.map((request) => request.cursor).join();
    assert(cursors === ",1,2", `the requests had the cursors ${cursors}`);
    return "the end of a response reconnects with the cursor, the end event ends";
  },
  async "sse-parser-discards-tail"() {
    const server = await serve(send("data: 1\nid: 1\n\nid: 9\ndata: half"), send(END));
    const [events] = await collect(server.url);
    assert(short(events) === "message/1/1 end/{}/z", short(events));
    assert(server.requests[1].cursor === "1", `it came back with ${server.requests[1].cursor}`);
    return "an event that was cut is dropped, its id too";
  },
  async "sse-client-cursor-after-handling"() {
    const all = [1, 2, 3, 4, 5, 6].map((n) => `data: ${n}\nid: ${n}\n\n`);
    const server = await serve(
      (response) => {
        stream(response).write(all.slice(0, 4).join(""));
        setTimeout(() => response.destroy(), 100);
      },
      (response, request) => send(all.slice(Number(request.headers["last-event-id"] ?? 0)).join("") + END)(response),
    );
    const seen = [];
    const run = (async () => {
      for await (const event of subscribe(server.url, { signal: new AbortController().signal, ...fast })) {
        if (event.type !== "end") seen.push(event.data);
        if (seen.length === 2) await sleep(300); // the connection is cut meanwhile
      }
    })();
    await within(8_000, run, "the generator did not end");
    assert(seen.join() === "1,2,3,4,5,6", `a slow consumer over a cut saw ${seen}`);
    return "a slow consumer sees each event once over a cut";
  },
  async "sse-client-statuses"() {
    for (const [status, type] of [
      [404, "text/plain"],
      [401, "application/json"],
      [200, "text/html"],
    ]) {
      const server = await serve((response) =>
        response.writeHead(status, { "content-type": type }).end("data: no\n\n"),
      );
      const [events, how] = await collect(server.url, {}, 2_000);
      assert(
        how instanceof Error && !/did not end/.test(how.message) && events.length === 0,
        `${status} ${type}: ${how?.message ?? how}`,
      );
      await sleep(150);
      assert(server.requests.length === 1, `${status} ${type} was asked ${server.requests.length} times`);
    }
    const none = await serve((response) => response.writeHead(204).end());
    const [, how] = await collect(none.url, {}, 2_000);
    assert(how === "returned" && none.requests.length === 1, `204: ${how}`);
    const busy = await serve(
      (response) => response.writeHead(503, { "retry-after": "1" }).end(),
      (response) => response.writeHead(502).end(),
      send(END),
    );
    const [, end] = await collect(busy.url, { maxDelayMs: 5_000 });
    const waited = busy.requests[1]?.when - busy.requests[0].when;
    assert(end === "returned" && waited >= 950, `503 with Retry-After: 1 was asked again after ${waited} ms: ${end}`);
    return "404, 401 and HTML throw at once, 204 ends, 503 and 502 are asked again, Retry-After is obeyed";
  },
  async "sse-client-backoff"() {
    // One that answers and dies at once is no better than one that does not answer.
    const server = await serve((response) => {
      stream(response).write("retry: 0\ndata: x\n\n");
      setTimeout(() => response.destroy(), 5);
    });
    const abort = new AbortController();
    const run = collect(server.url, { signal: abort.signal, minDelayMs: 50, maxDelayMs: 1_000 });
    await sleep(2_500);
    abort.abort(new Error("enough"));
    await run;
    const waits = server.requests.slice(1).map((request, i) => request.when - server.requests[i].when);
    assert(waits.length >= 3, `only ${waits.length} reconnects within 2.5 s`);
    assert(
      waits.length <= 30,
      `${waits.length} reconnects within 2.5 s to a server that dies after each first event (minDelayMs 50, maxDelayMs 1000)`,
    );
    const other = await Promise.all(
      [0, 1, 2, 3].map(async () => {
        const down = await serve((response) => response.writeHead(503).end());
        const stop = new AbortController();
        const tries = collect(down.url, { signal: stop.signal, minDelayMs: 100, maxDelayMs: 600 });
        await sleep(2_000);
        stop.abort(new Error("enough"));
        await tries;
        return down.requests.slice(1).map((request, i) => request.when - down.requests[i].when);
      }),
    );
    // Four clients whose servers went down together: the spread of their first waits, of their second…
    const spreads = [0, 1, 2]
      .map((n) => other.map((client) => client[n] ?? NaN))
      .filter((nth) => nth.every(Number.isFinite))
      .map((nth) => Math.max(...nth) - Math.min(...nth));
    assert(
      spreads.some((spread) => spread > 40),
      `the waits have no jitter: ${JSON.stringify(other)}`,
    );
    return `${waits.length} reconnects within 2.5 s to a server that keeps dying; waits ${JSON.stringify(other[0])}`;
  },
  async "sse-fetch-idle-timeout"() {
    const server = await serve((response) => void stream(response).write("data: 1\nid: 1\n\n"), send(END));
    const [events, how] = await collect(server.url, { idleMs: 300 }, 4_000);
    assert(
      how === "returned" && server.requests[1].cursor === "1",
      `a connection that fell silent: ${short(events)} ${how}`,
    );
    const slow = await serve((response) => {
      stream(response).write("data: 1\nid: 1\n\ndata: 2\nid: 2\n\n");
      setTimeout(() => response.end(END), 150);
    });
    for await (const _ of subscribe(slow.url, { signal: new AbortController().signal, ...fast, idleMs: 300 }))
      await sleep(500);
    assert(slow.requests.length === 1, "the time that the consumer takes counted as silence");
    return "silence reconnects, a slow consumer does not";
  },
  async "sse-client-leaves"() {
    const server = await serve((response) => void stream(response).write("data: 1\n\n"));
    for await (const _ of subscribe(server.url, { signal: new AbortController().signal, ...fast })) break;
    await eventually(2_000, "the connection is open after break", () => server.open === 0);
    const abort = new AbortController();
    const run = collect(server.url, { signal: abort.signal });
    await eventually(2_000, "no connection", () => server.open === 1);
    await sleep(100);
    abort.abort(new Error("stop"));
    const [, how] = await within(1_000, run, "abort while it reads");
    assert(how?.message === "stop", `after abort the generator ${how?.message ?? how}`);
    await eventually(2_000, "the connection is open after abort", () => server.open === 0);
    const down = await serve((response) => response.writeHead(503).end());
    const again = new AbortController();
    const waiting = collect(down.url, { signal: again.signal, minDelayMs: 20_000, maxDelayMs: 30_000 });
    await eventually(2_000, "no request", () => down.requests.length === 1);
    await sleep(100);
    again.abort(new Error("stop"));
    await within(1_000, waiting, "abort while it waits to reconnect");
    await sleep(50);
    const timers = process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
    assert(timers <= 4, `${timers} timers are left`); // those of the HTTP server
    return "break and abort close the connection, abort ends the wait";
  },
  async "sse-client-size-bound"() {
    const big = Buffer.alloc(64 * 1024, "x");
    let sent = 0;
    const server = await serve((response) => {
      stream(response).write("data: ");
      const more = () => {
        while (!response.destroyed && sent < 200e6 && response.write(big)) sent += big.length;
      };
      response.on("drain", () => {
        sent += big.length;
        more();
      });
      more();
    });
    const [, how] = await collect(server.url, { maxEventChars: 100_000 }, 8_000);
    assert(
      how instanceof Error && !/did not end/.test(how.message),
      `a line without end: ${how?.message ?? how}, ${sent >> 20} MiB were sent`,
    );
    assert(sent < 50e6, `${sent >> 20} MiB were taken`);
    return `given up after ${sent >> 20} MiB`;
  },
  async "sse-client-cursor"() {
    const server = await serve(send("data: 1\nid: ünï–1\n\n"), send(END));
    const [, how] = await collect(server.url, {}, 4_000);
    assert(how === "returned", `an id that is not ASCII: ${how?.message ?? how}`);
    const cursor = Buffer.from(server.requests[1].cursor, "latin1").toString();
    assert(cursor === "ünï–1", `the id ünï–1 came back as ${cursor}`);
    const reset = await serve(send("data: 1\nid: 7\n\nid\ndata: 2\n\n"), send(END));
    await collect(reset.url);
    assert(!reset.requests[1].cursor, `after an empty id it came back with ${reset.requests[1].cursor}`);
    return "ids are sent back as UTF-8; an empty id clears the cursor";
  },
};

await run(scenarios);
