// Wrong: `data: {"error":"${error.message}"}` and every other event that is concatenated from strings
// Harm: a quote breaks the JSON, a line break lets the text begin events of its own, and the message tells the client what the server knows
// Instead: streams/readable
// Probe: cannot see: a text of the client's becomes events that are well formed
import { expect, test } from "vitest";
import { encodeEvent } from "../../src/sse/encode.ts";
import { EventStreamParser } from "../../src/sse/event-stream.ts";

const message = 'no such user: a"}\n\nevent: done\ndata: {"paid":true}';

test("text in a hand-made event becomes events", () => {
  const wrong = `data: {"error":"${message}"}\n\n`;
  const events = [...new EventStreamParser().push(wrong)];
  expect(events.map(({ type }) => type)).toEqual(["message", "done"]);
  expect(() => JSON.parse(events[0]!.data) as unknown).not.toThrow();
  expect(events[1]!.data).toContain('{"paid":true}');

  const right = [
    ...new EventStreamParser().push(
      new TextDecoder().decode(encodeEvent({ type: "failed", data: { code: "not_found", detail: message } })),
    ),
  ];
  expect(right.map(({ type }) => type)).toEqual(["failed"]);
  expect(JSON.parse(right[0]!.data)).toEqual({ code: "not_found", detail: message });
});

test("a quote in a hand-made event breaks its JSON", () => {
  const [event] = new EventStreamParser().push(`data: {"error":"${'the "id" field'}"}\n\n`);
  expect(() => JSON.parse(event!.data) as unknown).toThrow(SyntaxError);
});
