import { createParser } from "eventsource-parser";
import { describe, expect, inject, test } from "vitest";
import { EventStreamParser, EventTooLargeError, eventStream, type ServerSentEvent } from "../src/sse/event-stream.ts";
import { openPage } from "./support/browser.ts";
import { bytesOf, type Case, cut, readCases, seeded, single } from "./support/cases.ts";

const cases = readCases();

async function parse(chunks: Uint8Array<ArrayBuffer>[], lastEventId = ""): Promise<ServerSentEvent[]> {
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });
  const events = [];
  for await (const event of body.pipeThrough(eventStream({ lastEventId }))) events.push(event);
  return events;
}

// A refused connection has no events, whatever its body says: that is `connect`'s part.
const parsed = cases.filter((each) => !refused(each));

describe("the parser", () => {
  test("agrees with every case in every chunking", async () => {
    expect(cases.length).toBeGreaterThan(180);
    const random = seeded(1);
    for (const each of parsed) {
      const bytes = new Uint8Array(bytesOf(each));
      const chunkings = [[bytes], single(bytes), cut(bytes, random), cut(bytes, random), cut(bytes, random)];
      for (const chunks of chunkings) {
        expect(await parse(chunks, each.initial_last_event_id), each.name).toEqual(each.expected);
      }
    }
  });

  test("ends with the retry and the id that the case names", () => {
    let checked = 0;
    for (const each of parsed) {
      const decoder = new TextDecoder();
      const parser = new EventStreamParser({ lastEventId: each.initial_last_event_id ?? "" });
      for (const chunk of single(new Uint8Array(bytesOf(each))))
        Array.from(parser.push(decoder.decode(chunk, { stream: true })));
      if (each.retry_ms !== undefined) expect(parser.retry ?? null, each.name).toBe(each.retry_ms);
      if (each.last_event_id_at_eof !== undefined)
        expect(parser.lastEventId, each.name).toBe(each.last_event_id_at_eof);
      checked += Number(each.retry_ms !== undefined) + Number(each.last_event_id_at_eof !== undefined);
    }
    expect(checked).toBeGreaterThan(20);
  });

  test("dispatches at the CR of a blank line, without waiting for the next byte", () => {
    const parser = new EventStreamParser();
    expect(Array.from(parser.push("data: a\r\r"), (event) => event.data)).toEqual(["a"]);
    expect(Array.from(parser.push("\ndata: b\n\r\n"), (event) => event.data)).toEqual(["b"]);
  });

  test("bounds a line and an event with a typed error", () => {
    const parse = (...pieces: string[]): string[] => {
      const parser = new EventStreamParser({ maxEventSize: 16 });
      return pieces.flatMap((piece) => Array.from(parser.push(piece), (event) => event.data));
    };
    const x = (count: number): string => "x".repeat(count);
    // The bound counts the value, not the name before it, and the line feeds between the lines of data.
    for (const prefix of ["data: ", "data:"]) {
      expect(parse(`${prefix}${x(16)}\n\n`, `${prefix}${x(16)}\n\n`)).toEqual([x(16), x(16)]);
      expect(() => parse(`${prefix}${x(17)}\n`)).toThrow(EventTooLargeError);
    }
    expect(parse(`data: ${x(8)}\ndata: ${x(7)}\n\n`)).toEqual([`${x(8)}\n${x(7)}`]);
    expect(() => parse(`data: ${x(8)}\ndata: ${x(8)}\n`)).toThrow(EventTooLargeError);
    expect(() => parse("data\n".repeat(18))).toThrow(EventTooLargeError);
    expect(parse(`event: ${x(16)}\nretry: ${"1".repeat(16)}\nid: ${x(16)}\ndata: a\n\n`)).toEqual(["a"]);
    expect(() => parse(`event: ${x(17)}\n`)).toThrow(EventTooLargeError);
    // A line that does not end is refused in pieces too; a comment is not kept, however long.
    expect(() => parse(...x(24))).toThrow(EventTooLargeError);
    expect(parse(`:${x(100)}\n`, ...`:${x(100)}`, "\ndata: a\n\n")).toEqual(["a"]);
  });

  test("gives the events before the one that is too long", async () => {
    const text = `data: a\n\ndata: b\n\ndata: ${"x".repeat(100)}\n\n`;
    const seen: string[] = [];
    expect(() => {
      for (const { data } of new EventStreamParser({ maxEventSize: 50 }).push(text)) seen.push(data);
    }).toThrow(EventTooLargeError);
    expect(seen).toEqual(["a", "b"]);
    // And through the transform, whose reader takes its time; the source is told to stop.
    const cancelled = Promise.withResolvers<unknown>();
    const body = new ReadableStream({
      start: (controller) => controller.enqueue(new TextEncoder().encode(text)),
      cancel: cancelled.resolve,
    });
    const reader = body.pipeThrough(eventStream({ maxEventSize: 50 })).getReader();
    await new Promise((resolve) => setTimeout(resolve, 0));
    expect([(await reader.read()).value!.data, (await reader.read()).value!.data]).toEqual(["a", "b"]);
    await expect(reader.read()).rejects.toThrow(EventTooLargeError);
    expect(await cancelled.promise).toBeInstanceOf(EventTooLargeError);
  });

  test("a random stream gives the same events to Chromium in other chunks", async () => {
    const random = seeded(7);
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
      "\u2028",
      "\0",
      "retry",
      "1",
      "\n\n",
      "data: y\n\n",
    ];
    const samples: Case[] = Array.from({ length: 60 }, (_, at) => {
      const text = Array.from({ length: 40 }, () => pieces[random(pieces.length)]).join("");
      return { name: `random ${at}`, raw_base64: Buffer.from(text).toString("base64"), expected: [] };
    });
    for (const sample of samples) sample.expected = await parse([new Uint8Array(bytesOf(sample))]);
    await agreesWithChromium(samples, (bytes) => cut(bytes, random));
  });
});

describe("Chromium", () => {
  test("agrees with every case, in one chunk", async () => {
    await agreesWithChromium(comparable(), (bytes) => [bytes]);
  });

  test("agrees with every short case, byte by byte", async () => {
    await agreesWithChromium(
      comparable().filter((each) => bytesOf(each).length < 200),
      single,
    );
  });
});

/** A new EventSource has no cursor yet: the cases that begin with one are left to the parser. */
function comparable(): Case[] {
  return cases.filter((each) => (each.initial_last_event_id ?? "") === "" && bytesOf(each).length < 8_000);
}

/** `failed`: the client must not read the body at all. */
function refused(each: Case): boolean {
  return each.connection?.startsWith("failed") ?? false;
}

/** Where Chromium 156 departs from the standard. An entry that no longer holds fails its test. */
const chromiumAlone = new Map<string, Case["expected"]>([
  // The byte order mark is looked for after the third byte, and the line has ended there.
  ["sse-cases: a byte order mark alone on the first line leaves it empty", []],
  // HTML section 9.2.5: always UTF-8, whatever the parameter says. Chromium refuses another charset.
  ["wpt-sse-cases: always UTF-8 whatever the charset parameter says", []],
]);

async function agreesWithChromium(
  list: Case[],
  chunking: (bytes: Uint8Array<ArrayBuffer>) => Uint8Array[],
): Promise<void> {
  const page = await openPage(inject("rust"));
  const jobs = list.map((each) => {
    const chunks = chunking(new Uint8Array(bytesOf(each))).map((chunk) => Buffer.from(chunk).toString("hex"));
    const query = new URLSearchParams({ chunks: chunks.join(","), type: each.content_type ?? "text/event-stream" });
    return { url: `/raw?${query}`, types: [...new Set(["message", ...each.expected.map((event) => event.type)])] };
  });
  const results = await page.evaluate(async (all) => {
    const run = ({ url, types }: { url: string; types: string[] }): Promise<object[]> =>
      new Promise((resolve) => {
        const events: object[] = [];
        const source = new EventSource(url);
        for (const type of types) {
          source.addEventListener(type, (event) => {
            if (!(event instanceof MessageEvent)) return; // the connection's own `error` and `open`
            events.push({ type: event.type, data: event.data, lastEventId: event.lastEventId });
          });
        }
        source.addEventListener("error", (event) => {
          if (event instanceof MessageEvent) return;
          source.close(); // the response has ended: without this it would ask again
          resolve(events);
        });
      });
    const found: object[][] = [];
    for (let at = 0; at < all.length; at += 4) found.push(...(await Promise.all(all.slice(at, at + 4).map(run))));
    return found;
  }, jobs);
  expect(results.length).toBe(list.length);
  for (const [at, each] of list.entries()) {
    expect(results[at], each.name).toEqual(chromiumAlone.get(each.name) ?? (refused(each) ? [] : each.expected));
  }
}

describe("the npm package eventsource-parser", () => {
  test("agrees with every case in every chunking, given decoded text", () => {
    const random = seeded(3);
    for (const each of parsed) {
      const bytes = new Uint8Array(bytesOf(each));
      for (const chunks of [[bytes], single(bytes), cut(bytes, random)]) {
        const events: object[] = [];
        const parser = createParser({ onEvent: ({ event, data }) => events.push({ type: event ?? "message", data }) });
        // It removes a byte order mark itself: two would be lost with a decoder that does so too.
        const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
        for (const chunk of chunks) parser.feed(decoder.decode(chunk, { stream: true }));
        expect(events, each.name).toEqual(each.expected.map(({ type, data }) => ({ type, data })));
      }
    }
  });

  test("does not tell of an id without data, so a cursor kept from its events lags behind", () => {
    const ids: (string | undefined)[] = [];
    const parser = createParser({ onEvent: ({ id }) => ids.push(id) });
    parser.feed("id: 9\n\ndata: a\n\n");
    expect(ids).toEqual([undefined]);
  });
});
