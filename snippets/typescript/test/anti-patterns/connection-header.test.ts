// Wrong: `Connection: keep-alive` among the headers of an event stream
// Harm: it is a header of one HTTP/1.1 connection, forbidden in HTTP/2 (RFC 9113, section 8.2.2): Node drops it with a warning, others refuse the response
// Instead: streams/readable
// Probe: cannot see: HTTP/2, which the probe does not read events over
import { once } from "node:events";
import { connect, createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { STREAM_HEADERS } from "../../src/sse/encode.ts";

test("HTTP/2 has no Connection header", async () => {
  const warnings: string[] = [];
  const note = (warning: Error): void => void warnings.push(warning.name);
  process.on("warning", note);
  const server = createServer((request, response) => {
    response
      .writeHead(200, request.url === "/wrong" ? { ...STREAM_HEADERS, connection: "keep-alive" } : STREAM_HEADERS)
      .end();
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  onTestFinished(() => {
    client.close();
    server.close();
    process.off("warning", note);
  });
  const get = async (path: string): Promise<import("node:http2").IncomingHttpHeaders> => {
    const [headers] = (await once(client.request({ ":path": path }), "response")) as [
      import("node:http2").IncomingHttpHeaders,
    ];
    return headers;
  };
  expect((await get("/right"))["content-type"]).toBe("text/event-stream");
  expect(warnings).toEqual([]);
  expect((await get("/wrong")).connection).toBeUndefined();
  await new Promise((resolve) => setImmediate(resolve));
  expect(warnings).toEqual(["UnsupportedWarning"]);
});
