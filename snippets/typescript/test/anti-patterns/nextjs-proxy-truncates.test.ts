// Wrong: a proxy.ts (middleware) whose matcher includes a route that receives large or streamed bodies
// Harm: Next reads the body into memory first and cuts it at 10 MB: the route gets part of it and answers 200, and only one log line reveals it
// Instead: streams/nextjs
// Probe: cannot see: the body of a request
import { expect, inject, test } from "vitest";
import { logText, origin } from "../support/nextjs.ts";

const SIZE = 15_000_000;

async function upload(url: string): Promise<[status: number, bytes: number]> {
  const response = await fetch(url, { method: "POST", body: new Uint8Array(SIZE) });
  return [response.status, ((await response.json()) as { bytes: number }).bytes];
}

test("15 MB arrive as 10 MB, with a 200", async () => {
  const [status, bytes] = await upload(`${origin()}/wrong/upload`);
  expect(status).toBe(200);
  expect(bytes).toBeLessThan(10_500_000);
  expect(logText()).toContain("Request body exceeded 10MB");
  expect(await upload(`${origin()}/api/upload`)).toEqual([200, SIZE]);
  // The same application with experimental.proxyClientMaxBodySize at 20 MB.
  expect(await upload(`${inject("second").origin}/wrong/upload`)).toEqual([200, SIZE]);
});
