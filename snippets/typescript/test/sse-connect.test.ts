import { EventSource as NodeEventSource } from "eventsource";
import { describe, expect, inject, test, vi } from "vitest";
import { type ConnectOptions, connect, EventStreamError, RetryLater } from "../src/sse/connect.ts";
import { EventTooLargeError, retryAfterMs, type ServerSentEvent } from "../src/sse/event-stream.ts";
import { load, openPage } from "./support/browser.ts";
import { eventually, gone, serve, signal, sse } from "./support/server.ts";

const quick = { minDelay: 1, maxDelay: 5 };
const never = new AbortController().signal;

/** Reads until the `done` event, as a consumer does. */
async function untilDone(url: string, options: Partial<ConnectOptions> = {}): Promise<ServerSentEvent[]> {
  const events = [];
  for await (const event of connect(url, { signal: never, ...quick, ...options })) {
    events.push(event);
    if (event.type === "done") break;
  }
  return events;
}

const DONE = "event: done\ndata: {}\n\n";

describe("connect", () => {
  test("resumes after the last event that was handled", async () => {
    const cursors: (string | undefined)[] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        cursors.push(request.headers["last-event-id"] as string | undefined);
        // The second id has no blank line after it: the event is incomplete, and must come again.
        if (nth === 1) sse(response, "id: 1\ndata: a\n\nid: 2\ndata: lost\n").end();
        else sse(response, `id: 2\ndata: b\n\n${DONE}`);
      },
    });
    const events = await untilDone(`${server.origin}/events`);
    expect(events.map((event) => event.data)).toEqual(["a", "b", "{}"]);
    expect(cursors).toEqual([undefined, "1"]);
  });

  test("an event counts as handled when the consumer asks for the next one", async () => {
    const cursors: (string | undefined)[] = [];
    const server = await serve({
      "/events": (request, response) => {
        cursors.push(request.headers["last-event-id"] as string | undefined);
        sse(response, "id: 1\ndata: a\n\nid: 2\ndata: b\n\n").end();
      },
    });
    const events = connect(`${server.origin}/events`, { signal: never, ...quick });
    // Both events have arrived with one chunk; the consumer has not come back from the second.
    await events.next();
    await events.next();
    expect(cursors).toEqual([undefined]);
    await events.next();
    expect(cursors).toEqual([undefined, "2"]);
    await events.return();
  });

  test("a block with an id alone moves the cursor", async () => {
    const cursors: (string | undefined)[] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        cursors.push(request.headers["last-event-id"] as string | undefined);
        sse(response, nth === 1 ? "id: 9\n\n" : DONE).end();
      },
    });
    await untilDone(`${server.origin}/events`);
    expect(cursors).toEqual([undefined, "9"]);
  });

  test("another contract is a matter of options: the cursor in the query, 410 as the end, 409 as busy", async () => {
    const asked: [string | undefined, string | undefined][] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        asked.push([request.url, request.headers["last-event-id"] as string | undefined]);
        if (nth === 1) sse(response, "id: 7\ndata: a\n\n").end();
        else response.writeHead(nth === 2 ? 409 : 410).end();
      },
    });
    const events = [];
    const options = { cursorQuery: "since", over: [410], mayPass: (status: number) => status === 409 };
    for await (const event of connect(`${server.origin}/events?room=1`, { signal: never, ...quick, ...options }))
      events.push(event.data);
    expect(events).toEqual(["a"]);
    const after = ["/events?room=1&since=7", undefined];
    expect(asked).toEqual([["/events?room=1", undefined], after, after]);
  });

  test("a token that has expired is renewed once, and a refused new one is final", async () => {
    const tokens: (string | undefined)[] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        const token = request.headers.authorization;
        tokens.push(token);
        if (token === "Bearer 0" || token === "Bearer 2") response.writeHead(401).end();
        else sse(response, nth === 2 ? "id: 1\ndata: a\n\n" : DONE).end();
      },
    });
    let token = 0;
    const states: string[] = [];
    const options = {
      request: () => ({ method: "POST", headers: { authorization: `Bearer ${token}` } }),
      idempotencyKey: "k",
      renew: async () => void (token += 1),
      onState: (state: string, status?: number) => void states.push(status ? `${state} ${status}` : state),
    };
    const events = await untilDone(`${server.origin}/events`, options);
    expect(events.map(({ data }) => data)).toEqual(["a", "{}"]);
    expect(tokens).toEqual(["Bearer 0", "Bearer 1", "Bearer 1"]);
    expect(states).toEqual(["connecting", "connecting", "open", "waiting", "connecting", "open"]);
    token = 2; // and what `renew` brings is refused as well
    const final = untilDone(`${server.origin}/events`, { ...options, renew: async () => undefined });
    await expect(final).rejects.toMatchObject({ status: 401 });
    await expect(untilDone(`${server.origin}/events`, { ...options, renew: undefined! })).rejects.toMatchObject({
      status: 401,
    });
  });

  test("RetryLater of request and renew is a failed attempt, and anything else ends the stream", async () => {
    const server = await serve({
      "/events": (request, response) => {
        if (request.headers.authorization === undefined) response.writeHead(401).end();
        else sse(response, DONE);
      },
    });
    let asked = 0;
    let renewals = 0;
    const states: string[] = [];
    await untilDone(`${server.origin}/events`, {
      request: () => {
        if (++asked === 1) throw new RetryLater("the token's server is away");
        return renewals < 2 ? { method: "POST" } : { method: "POST", headers: { authorization: "Bearer 1" } };
      },
      renew: async () => {
        if (++renewals === 1) throw new RetryLater("still away");
      },
      onState: (state, status) => void states.push(status ? `${state} ${status}` : state),
    });
    expect(states).toEqual(["connecting", "waiting", "connecting", "waiting 401", "connecting", "connecting", "open"]);
    const broken = (): never => {
      throw new TypeError("a bug");
    };
    await expect(untilDone(`${server.origin}/events`, { request: broken })).rejects.toThrow("a bug");
  });

  test("break closes the connection", async () => {
    const closed = signal();
    const server = await serve({
      "/events": async (_, response) => {
        sse(response, DONE);
        await gone(response);
        closed.resolve();
      },
    });
    await untilDone(`${server.origin}/events`);
    await closed.promise;
    expect(server.hits.get("/events")).toBe(1);
  });

  test("204 ends it", async () => {
    const server = await serve({ "/events": (_, response) => void response.writeHead(204).end() });
    expect(await untilDone(`${server.origin}/events`)).toEqual([]);
    expect(server.hits.get("/events")).toBe(1);
  });

  test("asks again after these statuses and no others", async () => {
    const repeated = [];
    for (const status of [
      201, 206, 400, 401, 403, 404, 408, 410, 425, 429, 500, 501, 502, 503, 504, 505, 520, 524, 529,
    ]) {
      const server = await serve({
        "/events": (_, response, nth) =>
          void (nth === 1
            ? response.writeHead(status, { "content-type": "text/event-stream" }).end(DONE)
            : sse(response, DONE)),
      });
      const outcome = await untilDone(`${server.origin}/events`).catch((error: unknown) => error);
      if (outcome instanceof EventStreamError) expect(outcome.status).toBe(status);
      else repeated.push(status);
      await server.close();
    }
    expect(repeated).toEqual([408, 425, 429, 500, 502, 503, 504, 520, 524, 529]);
  });

  test("refuses another content type instead of reading no events from it", async () => {
    const server = await serve({
      "/events": (_, response) => void response.writeHead(200, { "content-type": "text/html" }).end("<h1>Sign in</h1>"),
    });
    await expect(untilDone(`${server.origin}/events`)).rejects.toThrow('content-type "text/html"');
  });

  test("waits at least as long as Retry-After says", async () => {
    const times: number[] = [];
    const server = await serve({
      "/events": (_, response, nth) => {
        times.push(performance.now());
        void (nth === 1 ? response.writeHead(503, { "retry-after": "1" }).end() : sse(response, DONE));
      },
    });
    await untilDone(`${server.origin}/events`);
    expect(times[1]! - times[0]!).toBeGreaterThan(950);
  });

  test("reads Retry-After as seconds or as a date, within bounds", () => {
    const now = Date.parse("2026-11-22T10:00:00Z");
    expect(retryAfterMs("120", now)).toBe(120_000);
    expect(retryAfterMs("Sun, 22 Nov 2026 10:00:30 GMT", now)).toBe(30_000);
    expect(retryAfterMs("Sun, 22 Nov 2026 09:00:00 GMT", now)).toBe(0);
    expect(retryAfterMs("soon", now)).toBe(0);
    expect(retryAfterMs("99999999999", now)).toBe(3_600_000);
    expect(retryAfterMs(null, now)).toBe(0);
  });

  test("silence ends the connection, and the time the consumer takes is not silence", async () => {
    const server = await serve({
      "/events": (_, response, nth) => void sse(response, nth === 1 ? "id: 1\ndata: slow\n\n" : DONE),
    });
    const seen: string[] = [];
    for await (const event of connect(`${server.origin}/events`, { signal: never, ...quick, idleTimeout: 3_000 })) {
      seen.push(event.type);
      // Longer than the timeout: were it counted, the connection would be cut here and `done` never be read once.
      if (event.data === "slow") await new Promise((resolve) => setTimeout(resolve, 4_000));
      if (event.data === "slow") expect(server.hits.get("/events")).toBe(1);
      if (event.type === "done") break;
    }
    expect(seen).toEqual(["message", "done"]);
    expect(server.hits.get("/events")).toBe(2);
  });

  test("a timeout on the request cuts a stream that is well", async () => {
    const server = await serve({
      "/events": (_, response) => {
        sse(response);
        const timer = setInterval(() => response.write("data: tick\n\n"), 20);
        void gone(response).then(() => clearInterval(timer));
      },
    });
    const end = await (async () => {
      const reader = (await fetch(`${server.origin}/events`, { signal: AbortSignal.timeout(300) })).body!.getReader();
      for (;;) await reader.read();
    })().catch((error: unknown) => (error as Error).name);
    expect(end).toBe("TimeoutError");
  });

  test("a response that never begins is silence too", async () => {
    const server = await serve({ "/events": (_, response, nth) => void (nth > 1 && sse(response, DONE)) });
    await untilDone(`${server.origin}/events`, { idleTimeout: 3_000 });
    expect(server.hits.get("/events")).toBe(2);
  });

  test("the request is asked for again at each attempt", async () => {
    const tokens: (string | undefined)[] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        tokens.push(request.headers.authorization);
        sse(response, nth === 2 ? DONE : "data: a\n\n").end();
      },
    });
    let token = 0;
    await untilDone(`${server.origin}/events`, {
      request: () => ({ headers: { authorization: `Bearer ${++token}` } }),
    });
    expect(tokens).toEqual(["Bearer 1", "Bearer 2"]);
  });

  test("a POST that may have had an effect is not repeated", async () => {
    const server = await serve({ "/chat": (_, response) => void sse(response, "data: a\n\n").end() });
    const post = { request: () => ({ method: "POST", body: "{}" }) };
    await expect(untilDone(`${server.origin}/chat`, post)).rejects.toThrow("must not be repeated");
    expect(server.hits.get("/chat")).toBe(1);
  });

  test("a POST is repeated after a refusal, and with an idempotency key", async () => {
    const keys: unknown[] = [];
    const server = await serve({
      "/chat": (request, response, nth) => {
        keys.push(request.headers["idempotency-key"]);
        if (nth === 1) response.writeHead(429).end();
        else if (nth === 2) sse(response, "id: 7\ndata: a\n\n").socket?.destroySoon();
        else sse(response, DONE);
      },
      "/other": (_, response, nth) => void (nth === 1 ? response.writeHead(429).end() : sse(response, DONE)),
    });
    const request = (): RequestInit => ({ method: "POST", body: "{}" });
    await untilDone(`${server.origin}/chat`, { request, idempotencyKey: "k1" });
    expect(keys).toEqual(["k1", "k1", "k1"]);
    await untilDone(`${server.origin}/other`, { request });
    expect(server.hits.get("/other")).toBe(2);
  });

  test("a 503 does not permit a second POST, unless the server's answer is known to mean so", async () => {
    const server = await serve({
      "/paid": (_, response) => void response.writeHead(503).end("upstream connect error or disconnect/reset"),
      "/known": (_, response, nth) => void (nth === 1 ? response.writeHead(503).end() : sse(response, DONE)),
    });
    const request = (): RequestInit => ({ method: "POST", body: "{}" });
    await expect(untilDone(`${server.origin}/paid`, { request })).rejects.toThrow("must not be repeated");
    expect(server.hits.get("/paid")).toBe(1);
    await untilDone(`${server.origin}/known`, { request, refusals: [429, 503] });
    expect(server.hits.get("/known")).toBe(2);
  });

  test("shows each event where a body stands still between reads, as in WebKit", async () => {
    // What arrives while no read is pending is given with the next chunk: WebKit bug 322545.
    const encoder = new TextEncoder();
    let held = "";
    let pending: ((result: { done: false; value: Uint8Array }) => void) | undefined;
    const arrive = (text: string): void => {
      held += text;
      pending?.({ done: false, value: encoder.encode(held) });
      if (pending !== undefined) held = "";
      pending = undefined;
    };
    const read = (): Promise<unknown> =>
      new Promise((resolve) => {
        pending = resolve;
        if (held === "") return;
      });
    const response = {
      status: 200,
      headers: new Headers({ "content-type": "text/event-stream" }),
      body: { getReader: () => ({ read }) },
    };
    vi.stubGlobal("fetch", () => {
      setTimeout(() => arrive("data: 1\n\n"), 0);
      return Promise.resolve(response);
    });
    const seen: string[] = [];
    try {
      for await (const { data } of connect("http://x/", { signal: never })) {
        seen.push(data);
        if (data === "2") break;
        arrive("data: 2\n\n"); // while the loop works
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    } finally {
      vi.unstubAllGlobals();
    }
    expect(seen).toEqual(["1", "2"]);
  });

  test("a fetch without a body is a final error that says so", async () => {
    const response = { status: 200, headers: new Headers({ "content-type": "text/event-stream" }), body: undefined };
    vi.stubGlobal("fetch", () => Promise.resolve(response));
    try {
      await expect(untilDone("http://x/")).rejects.toThrow("no body to read");
    } finally {
      vi.unstubAllGlobals();
    }
  });

  test("an id beyond ASCII goes back as the UTF-8 that the browser sends", async () => {
    const headers: unknown[] = [];
    const server = await serve({
      "/events": (request, response, nth) => {
        headers.push(request.headers["last-event-id"]);
        sse(response, nth === 1 ? "id: é€\ndata: a\n\n" : DONE).end();
      },
    });
    await untilDone(`${server.origin}/events`);
    expect(Buffer.from(headers[1] as string, "latin1").toString("utf8")).toBe("é€");
  });

  test("the delay grows until a connection has been stable", async () => {
    // With random() at its upper end, delays are exact: 1, 2, 4 ms and so on up to the cap.
    const random = Math.random;
    Math.random = () => 1;
    try {
      const times: number[] = [];
      const server = await serve({
        "/events": (_, response, nth) => {
          times.push(performance.now());
          sse(response, nth === 6 ? DONE : "data: flap\n\n").end();
        },
      });
      await untilDone(`${server.origin}/events`, { minDelay: 10, maxDelay: 1_000 });
      const gaps = times.slice(1).map((time, at) => time - times[at]!);
      for (const [at, gap] of gaps.entries()) expect(gap).toBeGreaterThanOrEqual(10 * 2 ** at - 2);
    } finally {
      Math.random = random;
    }
  });

  test("a retry of 0 does not become a flood", async () => {
    const random = Math.random;
    Math.random = () => 1;
    try {
      const times: number[] = [];
      const server = await serve({
        "/events": (_, response, nth) => {
          times.push(performance.now());
          sse(response, nth === 3 ? DONE : "retry: 0\n\n").end();
        },
      });
      await untilDone(`${server.origin}/events`, { minDelay: 50, maxDelay: 100, stableAfter: 0 });
      expect(times[1]! - times[0]!).toBeGreaterThan(45);
      expect(times[2]! - times[1]!).toBeGreaterThan(45);
    } finally {
      Math.random = random;
    }
  });

  test("no attempt follows another sooner than minDelay, whatever the dice say", async () => {
    const random = Math.random;
    Math.random = () => 0;
    try {
      const times: number[] = [];
      const server = await serve({
        "/events": (_, response, nth) => {
          times.push(performance.now());
          sse(response, nth === 3 ? DONE : nth === 2 ? "retry: 150\n\n" : "data: a\n\n").end();
        },
      });
      await untilDone(`${server.origin}/events`, { minDelay: 50, maxDelay: 100 });
      expect(times[1]! - times[0]!).toBeGreaterThan(45);
      // The server's retry, also beyond maxDelay.
      expect(times[2]! - times[1]!).toBeGreaterThan(145);
    } finally {
      Math.random = random;
    }
  });

  test("times that setTimeout cannot hold do not fire at once", async () => {
    const server = await serve({
      "/events": (_, response, nth) => void (nth === 1 ? response.writeHead(503).end() : sse(response, DONE)),
    });
    for (const idleTimeout of [Infinity, 2 ** 31]) {
      expect(await untilDone(`${server.origin}/events`, { idleTimeout })).toHaveLength(1);
    }
    expect(server.hits.get("/events")).toBe(3);
    const stop = new AbortController();
    const down = await serve({
      "/down": (_, response) => void response.writeHead(503, { "retry-after": "3600" }).end(),
    });
    const waiting = connect(`${down.origin}/down`, {
      signal: stop.signal,
      minDelay: Infinity,
      maxDelay: Infinity,
    }).next();
    const timers = vi.spyOn(globalThis, "setTimeout");
    await eventually(() => timers.mock.calls.some(([, ms]) => ms === 2 ** 31 - 1)); // a longer one fires after 1 ms
    timers.mockRestore();
    stop.abort(new Error("stopped"));
    await expect(waiting).rejects.toThrow("stopped");
    expect(down.hits.get("/down")).toBe(1);
  });

  test("after abort no event comes, not even of the chunk that has arrived", async () => {
    const server = await serve({ "/events": (_, response) => void sse(response, "data: a\n\ndata: b\n\n") });
    const stop = new AbortController();
    const events = connect(`${server.origin}/events`, { signal: stop.signal, ...quick });
    await events.next();
    stop.abort(new Error("stopped"));
    await expect(events.next()).rejects.toThrow("stopped");
  });

  test("an error of the consumer is not taken for the network", async () => {
    const server = await serve({ "/events": (_, response) => void sse(response, "data: a\n\n") });
    const events = connect(`${server.origin}/events`, { signal: never, ...quick });
    await events.next();
    await expect(events.throw(new TypeError("a bug"))).rejects.toThrow("a bug");
    expect(server.hits.get("/events")).toBe(1);
  });

  test("an id that no header can carry is an error, and a long one a refusal", async () => {
    const server = await serve({
      "/control": (_, response) => void sse(response, "id: a\u0001b\ndata: a\n\n").end(),
      "/long": (_, response) => void sse(response, `id: ${"x".repeat(300_000)}\ndata: a\n\n`).end(),
    });
    await expect(untilDone(`${server.origin}/control`)).rejects.toThrow('id "a\\u0001b" cannot be a header');
    expect(server.hits.get("/control")).toBe(1);
    await expect(untilDone(`${server.origin}/long`)).rejects.toMatchObject({ name: "EventStreamError", status: 431 });
  });

  test("abort ends it at every moment with the reason", async () => {
    const opened = signal();
    const server = await serve({
      "/silent": () => opened.resolve(),
      "/open": (_, response) => void sse(response, "data: a\n\n"),
      "/down": (_, response) => void response.writeHead(503).end(),
    });
    const run = async (
      path: string,
      abortWhen: (events: AsyncGenerator<ServerSentEvent>) => Promise<unknown>,
    ): Promise<void> => {
      const stop = new AbortController();
      const options = { signal: stop.signal, minDelay: 60_000, maxDelay: 60_000 };
      const events = connect(`${server.origin}${path}`, options);
      await abortWhen(events);
      const next = events.next();
      stop.abort(new Error("stopped"));
      await expect(next).rejects.toThrow("stopped");
    };
    await run("/open", async () => undefined); // before the request has left
    await run("/open", (events) => events.next()); // while it reads
    const stop = new AbortController();
    const waiting = connect(`${server.origin}/silent`, { signal: stop.signal }).next();
    await opened.promise; // before the head of the response
    stop.abort(new Error("stopped"));
    await expect(waiting).rejects.toThrow("stopped");
    const later = new AbortController();
    const delayed = connect(`${server.origin}/down`, {
      signal: later.signal,
      minDelay: 60_000,
      maxDelay: 60_000,
    }).next();
    await eventually(() => server.hits.get("/down") === 1); // during the delay, or just before it
    later.abort(new Error("stopped"));
    await expect(delayed).rejects.toThrow("stopped");
  });

  test("a stream over the bound is an error, not a reason to ask again", async () => {
    const server = await serve({ "/events": (_, response) => void sse(response, `data: ${"x".repeat(2_000)}`) });
    await expect(untilDone(`${server.origin}/events`, { maxEventSize: 1_000 })).rejects.toThrow(EventTooLargeError);
    expect(server.hits.get("/events")).toBe(1);
  });

  test("a wrong URL is an error at once", async () => {
    await expect(untilDone("http://")).rejects.toThrow(TypeError);
  });

  test("a cut connection resumes, and a cut body is not an end", async () => {
    const server = await serve({
      "/events": (_, response, nth) => {
        if (nth === 1) {
          sse(response, "id: 1\ndata: a\n\n");
          setImmediate(() => response.socket?.resetAndDestroy());
        } else sse(response, DONE);
      },
    });
    const events = await untilDone(`${server.origin}/events`);
    expect(events.at(-1)!.type).toBe("done");
    expect(server.hits.get("/events")).toBe(2);
  });
});

describe("against the Rust patterns", () => {
  const scene = (): string => `${inject("rust")}/scene/${crypto.randomUUID()}`;
  const post = async (url: string, body = ""): Promise<void> => {
    expect((await fetch(url, { method: "POST", body })).status).toBe(204);
  };

  test("connect reads sse/resume over a shutdown without gap or duplicate", async () => {
    const base = scene();
    const seen: string[] = [];
    await post(`${base}/publish/note`, "one");
    for await (const event of connect(`${base}/events`, { signal: never, ...quick })) {
      if (event.type === "ping" || event.type === "restart") continue;
      seen.push(`${event.type} ${event.data}`);
      if (event.data === '"one"') await post(`${base}/publish/note`, "two");
      if (event.data === '"two"') await post(`${base}/publish/done`, "three");
      if (event.type === "done") break;
    }
    expect(seen).toEqual(['note "one"', 'note "two"', 'done "three"']);
  });

  test("connect ends with the 204 that a finished log answers", async () => {
    const base = scene();
    await post(`${base}/publish/done`, "x");
    let lastEventId = "";
    for await (const event of connect(`${base}/events`, { signal: never, ...quick })) lastEventId = event.lastEventId;
    expect(lastEventId).toMatch(/^[0-9a-f]{1,16}-1$/);
  });

  test("a cursor that the log no longer holds brings a reset event", async () => {
    const base = scene();
    for (let at = 0; at < 12; at++) await post(`${base}/publish/note`, `${at}`);
    const types = [];
    for await (const event of connect(`${base}/events`, { signal: never, ...quick, lastEventId: "0-1" })) {
      types.push(event.type);
      if (types.length === 2) break;
    }
    expect(types).toEqual(["reset", "note"]);
  });

  test("the Rust parser gives the same events for random streams", async () => {
    const { cut, seeded } = await import("./support/cases.ts");
    const { EventStreamParser } = await import("../src/sse/event-stream.ts");
    const random = seeded(11);
    const pieces = [
      "data",
      ":",
      " ",
      "\n",
      "\r",
      "\r\n",
      "id",
      "event",
      "x",
      "é",
      "😀",
      "\uFEFF",
      "\0",
      "\n\n",
      "data: y\n\n",
    ];
    let events = 0;
    for (let at = 0; at < 100; at++) {
      const text = Array.from({ length: 60 }, () => pieces[random(pieces.length)]).join("");
      const bytes = new TextEncoder().encode(text);
      bytes[random(bytes.length)] = 0xff; // not UTF-8
      const parser = new EventStreamParser();
      const decoder = new TextDecoder();
      const ours = cut(bytes, random).flatMap((chunk) => [...parser.push(decoder.decode(chunk, { stream: true }))]);
      const response = await fetch(`${inject("rust")}/parse`, { method: "POST", body: bytes });
      expect(ours, JSON.stringify(text)).toEqual(await response.json());
      events += ours.length;
    }
    expect(events).toBeGreaterThan(100);
  });

  test("the npm package eventsource reads sse/resume and resumes with its header", async () => {
    const base = scene();
    await post(`${base}/publish/note`, "one");
    const sent: unknown[] = [];
    const source = new NodeEventSource(`${base}/events`, {
      fetch: (url, init) => {
        sent.push((init.headers as Record<string, string>)["Last-Event-ID"]);
        return fetch(url, init);
      },
    });
    const seen: string[] = [];
    await new Promise<void>((resolve) => {
      source.addEventListener("note", (event) => {
        seen.push(event.data as string);
        void post(`${base}/publish/done`, "two");
      });
      source.addEventListener("done", (event) => {
        seen.push(event.data as string);
        source.close();
        resolve();
      });
    });
    expect(seen).toEqual(['"one"', '"two"']);
    expect(sent[0]).toBeUndefined();
  });
});

describe("in Chromium", () => {
  test("connect resumes over a cut connection and ends at done", async () => {
    const server = await serve({
      "/events": (_, response, nth) => {
        if (nth === 1) sse(response, "id: 1\ndata: a\n\n").socket?.destroySoon();
        else sse(response, DONE);
      },
    });
    const page = await openPage(server.origin);
    await load(page, "sse/connect.ts");
    const types = await page.evaluate(async () => {
      const { connect } = (window as unknown as { pattern: typeof import("../src/sse/connect.ts") }).pattern;
      const types: string[] = [];
      const signal = new AbortController().signal;
      // Chromium sends it, and Node's parser answers 400: the pattern does the same in both.
      types.push(String(await fetch("/", { headers: { "last-event-id": "a\u0001b" } }).then(({ status }) => status)));
      await connect("/events", { signal, lastEventId: "a\u0001b" })
        .next()
        .catch((error: Error) => types.push(error.name));
      for await (const event of connect(new URL("/events", location.href), { signal, minDelay: 1, maxDelay: 5 })) {
        types.push(event.type);
        if (event.type === "done") break;
      }
      return types;
    });
    expect([...types.slice(0, 2), types.at(-1)]).toEqual(["400", "EventStreamError", "done"]);
    expect(server.requests.filter(({ url }) => url === "/events").at(-1)!.headers["last-event-id"]).toBe(
      types.length === 4 ? "1" : undefined,
    );
  });
});
