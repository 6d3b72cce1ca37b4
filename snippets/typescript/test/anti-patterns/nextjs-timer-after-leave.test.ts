// Wrong: a heartbeat by setInterval in a route handler, without a cancel()
// Harm: each beat after the client has left is an uncaughtException in the log of next start, forever
// Instead: streams/nextjs
// Probe: cannot see: in the log of the server
import { expect, test } from "vitest";
import { logText, newJob, origin, state } from "../support/nextjs.ts";
import { eventually } from "../support/server.ts";

test("the timer goes on after the client has left", async () => {
  const abort = new AbortController();
  const response = await fetch(`${origin()}/wrong/late-enqueue`, { signal: abort.signal });
  await response.body!.getReader().read();
  abort.abort();
  await eventually(() => logText().split("ERR_INVALID_STATE").length > 3);
  const { beats } = (await state()).counters;
  await eventually(async () => (await state()).counters["beats"]! > beats!);

  // The pattern: nobody is left, and nothing is logged.
  const job = await newJob();
  const right = new AbortController();
  const stream = await fetch(`${origin()}/api/jobs/${job.id}/events`, { signal: right.signal });
  await stream.body!.getReader().read();
  right.abort();
  await eventually(async () => (await job.readers()) === 0);
  expect(logText()).not.toContain(job.id);
});
