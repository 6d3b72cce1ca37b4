// Wrong: with `cacheComponents`, a GET stream that reads nothing from its request (in Next.js 14, every such GET)
// Harm: `next build` runs it once, and every client gets that response until the next build
// Instead: streams/nextjs
// Probe: fails sse-terminal-event
import { expect, test } from "vitest";
import { origin } from "../support/nextjs.ts";

test("what the build process said is served for ever", async () => {
  const read = async (): Promise<string> => (await fetch(`${origin()}/wrong/frozen`)).text();
  const first = await read();
  expect(first).toContain('"step":3');
  expect(await read()).toBe(first);
  expect(first).not.toContain(`"process":${process.pid}`);
});
