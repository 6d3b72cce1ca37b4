// Wrong: a Next.js route handler that sends nothing until there is an event
// Harm: Next.js holds back the response headers until the first chunk: neither fetch nor EventSource opens
// Instead: streams/nextjs
// Probe: fails sse-headers-before-first-event, sse-resume-no-duplicate
import { expect, test } from "vitest";
import { newJob, origin } from "../support/nextjs.ts";

test("the head waits for the first event", async () => {
  const job = await newJob();
  let opened = false;
  const abort = new AbortController();
  const response = fetch(`${origin()}/wrong/silent/${job.id}`, { signal: abort.signal }).then((response) => {
    opened = true;
    return response;
  });
  // As many streams of the pattern open one after the other meanwhile.
  for (let nth = 0; nth < 20; nth++) {
    const right = new AbortController();
    expect((await fetch(`${origin()}/api/jobs/${job.id}/events`, { signal: right.signal })).status).toBe(200);
    right.abort();
  }
  expect(opened).toBe(false);
  await job.publish("progress", {});
  expect((await response).status).toBe(200);
  abort.abort();
});
