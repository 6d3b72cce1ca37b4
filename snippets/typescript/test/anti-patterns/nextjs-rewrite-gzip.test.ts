// Wrong: `rewrites()` to a backend whose stream is sent without `no-transform`
// Harm: Next gzips it and flushes at the end: browsers get all events at once, curl without gzip shows nothing wrong
// Instead: streams/nextjs
// Probe: fails sse-no-transform, sse-no-buffering-headers, sse-gzip-incremental, sse-head-finishes
import { once } from "node:events";
import { type ClientRequest, get, type IncomingMessage } from "node:http";
import { createGunzip } from "node:zlib";
import { expect, inject, onTestFinished, test } from "vitest";
import { origin } from "../support/nextjs.ts";
import { eventually } from "../support/server.ts";

async function open(
  path: string,
  gzip: boolean,
): Promise<{ text: () => string; response: IncomingMessage; request: ClientRequest }> {
  const request = get(origin() + path, { headers: gzip ? { "accept-encoding": "gzip" } : {} });
  onTestFinished(() => void request.destroy());
  const [response] = (await once(request, "response")) as [IncomingMessage];
  const body = response.headers["content-encoding"] === "gzip" ? response.pipe(createGunzip()) : response;
  let text = "";
  body.on("data", (chunk: Buffer) => void (text += chunk.toString())).on("error", () => undefined);
  return { text: () => text, response, request };
}

test("a client that accepts gzip, as every browser, gets nothing until the end", async () => {
  const compressed = await open("/wrong/backend/twin/events", true);
  const plain = await open("/wrong/backend/twin/events", false);
  expect(compressed.response.headers["content-encoding"]).toBe("gzip");
  for (const n of [1, 2, 3]) {
    await fetch(`${inject("plain")}/twin/push`, { method: "POST" });
    await eventually(() => plain.text().includes(`"n":${n}`));
  }
  expect(compressed.text()).toBe("");
  await fetch(`${inject("plain")}/twin/end`, { method: "POST" });
  await eventually(() => compressed.text().includes('"n":3'));

  // The Rust pattern says no-transform.
  const scene = `scene/${crypto.randomUUID()}`;
  const right = await open(`/backend/${scene}/events`, true);
  expect(right.response.headers["content-encoding"]).toBeUndefined();
  await fetch(`${inject("backend")}/${scene}/publish/tick`, { method: "POST", body: "1" });
  await eventually(() => right.text().includes("event: tick"));
});
