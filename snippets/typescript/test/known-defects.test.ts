// Thirty defects of one widely copied guide to streaming APIs, each with the tests that show its harm. This test keeps the
// list honest: every file named here must exist, and hold the tests named after `::`.
import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

const here = (path: string): URL => new URL(path.startsWith("snippets/") ? `../../../${path}` : path, import.meta.url);

const DEFECTS: Record<string, [defect: string, ...shownBy: string[]]> = {
  O1: [
    "a GET route that never ends is prerendered at build time (Next.js 14; today one that ends, with cacheComponents)",
    "anti-patterns/nextjs-prerendered-stream.test.ts",
    "nextjs-build.test.ts::Next 16 runs it at each request by default",
  ],
  O2: ["a GET route that ends is frozen at build time", "anti-patterns/nextjs-prerendered-stream.test.ts"],
  O3: ["each fetch chunk decoded and split by itself", "anti-patterns/parse-per-chunk.test.ts"],
  O4: [
    "`data: ` asked for with its space, CR and CRLF, several data lines and ids ignored",
    "anti-patterns/parse-per-chunk.test.ts",
    "sse-event-stream.test.ts::agrees with every case in every chunking",
  ],
  O5: [
    "neither status nor content type looked at, the end taken for success",
    "anti-patterns/ignore-status-and-end.test.ts",
  ],
  O6: ["left at [DONE] without cancel, no AbortController", "anti-patterns/leave-without-cancel.test.ts"],
  O7: [
    "the client's leaving not handed on to the provider",
    "anti-patterns/upstream-not-aborted.test.ts",
    "anti-patterns/nextjs-provider-not-told.test.ts",
  ],
  O8: [
    "enqueue in start() under the title of backpressure",
    "anti-patterns/start-without-pull.test.ts",
    "anti-patterns/nextjs-start-loop.test.ts",
  ],
  O9: [
    "no catch in the stream of a route",
    "anti-patterns/throw-after-200.test.ts",
    "anti-patterns/nextjs-throw-in-body.test.ts",
  ],
  O10: ["error text put into an event by hand", "anti-patterns/event-by-hand.test.ts"],
  O11: ["code that does not compile", "anti-patterns/uncompiled-template.test.ts"],
  O12: [
    "enqueue and close after the client has left",
    "anti-patterns/enqueue-after-cancel.test.ts",
    "anti-patterns/nextjs-timer-after-leave.test.ts",
  ],
  O13: ["EventSource said to reconnect by itself", "anti-patterns/trust-automatic-reconnect.test.ts"],
  O14: [
    "close() that does not stop the reconnect, delay reset by each message",
    "anti-patterns/rebuild-without-cursor.test.ts",
  ],
  O15: ["a new EventSource each time, without the cursor", "anti-patterns/rebuild-without-cursor.test.ts"],
  O16: ["EventSource for an answer that ends", "anti-patterns/event-source-for-one-answer.test.ts"],
  O17: ["a ws server without error listeners", "anti-patterns/ws-server-without-error-listener.test.ts"],
  O18: ["text relayed as a binary frame", "anti-patterns/relay-text-as-binary.test.ts"],
  O19: ["send() directly after new WebSocket()", "anti-patterns/send-before-open.test.ts"],
  O20: [
    "no Origin check, no size limit, no bound on what waits, no heartbeat",
    "anti-patterns/ws-server-without-error-listener.test.ts",
    "websocket-browser-facts.test.ts::sends SameSite=Strict cookies to another port and to a sibling subdomain, whatever page asks",
    "snippets/tests/anti_patterns/ws_no_origin_check.rs",
  ],
  O21: ["a WebSocketServer opened in a module of Next.js", "anti-patterns/nextjs-websocket-in-module.test.ts"],
  O22: ["a heartbeat each 30 seconds", "snippets/tests/sse_serve.rs"],
  O23: [
    "compression advised for every stream",
    "anti-patterns/nextjs-rewrite-gzip.test.ts",
    "sse-browser-facts.test.ts::reads on while its handlers wait; fetch stops reading, if the response says no-store",
    "snippets/tests/sse_serve.rs",
  ],
  O24: ["a Connection header", "anti-patterns/connection-header.test.ts"],
  O25: [
    "six connections `per domain`",
    "sse-browser-facts.test.ts::six of them block every other request to the origin, in all tabs",
  ],
  O26: [
    "reconnection asked of the server, no word of ids, gaps, 204 and terminal events",
    "sse-connect.test.ts::a cursor that the log no longer holds brings a reset event",
    "sse-connect.test.ts::204 ends it",
  ],
  O27: [
    "nginx buffering as the only word on proxies",
    "snippets/tests/production_proxies.rs",
    "nextjs-proxies.test.ts::with the configuration of the book: routes and rewrites one by one, leaving noticed",
  ],
  O28: [
    "finish reasons, refusals and errors in the stream ignored",
    "llm-read-chat.test.ts::kinds are told apart and finish reasons are kept",
    "llm-read-chat.test.ts::a failure in the stream and a refusal before it have the same shape",
  ],
  O29: ["a message queue without ids and acknowledgements", "anti-patterns/queue-without-acks.test.ts"],
  O30: ["no tests", "sse-event-stream.test.ts"],
};

test("every defect is shown by a test that exists", () => {
  expect(Object.keys(DEFECTS)).toEqual(Array.from({ length: 30 }, (_, at) => `O${at + 1}`));
  for (const [id, [, ...shownBy]] of Object.entries(DEFECTS)) {
    for (const proof of shownBy) {
      const [path, name] = proof.split("::") as [string, string?];
      expect(existsSync(here(path)), `${id}: ${path}`).toBe(true);
      if (name !== undefined) expect(readFileSync(here(path), "utf8"), `${id}: ${proof}`).toContain(`"${name}"`);
    }
  }
});
