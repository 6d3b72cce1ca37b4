// Wrong: a GET stream of Next.js that begins its work in the handler or in start(), without a HEAD of its own
// Harm: Next answers HEAD with the GET and never cancels its body: a link checker starts work that nothing ends
// Instead: streams/nextjs
// Probe: cannot see: HEAD is answered; the work that it began leaves no trace on the wire
import { expect, test } from "vitest";
import { newJob, origin, state } from "../support/nextjs.ts";

test("HEAD starts the work, and nothing cancels it", async () => {
  expect((await fetch(`${origin()}/wrong/no-head`, { method: "HEAD" })).status).toBe(200);
  const { counters } = await state();
  expect([counters["work begun"], counters["work cancelled"]]).toEqual([1, undefined]);

  // A stream that begins when it is read is never begun.
  const job = await newJob();
  const head = await fetch(`${origin()}/api/jobs/${job.id}/events`, { method: "HEAD" });
  expect([head.status, head.headers.get("content-type")]).toEqual([200, "text/event-stream"]);
  expect(await job.readers()).toBe(0);
});
