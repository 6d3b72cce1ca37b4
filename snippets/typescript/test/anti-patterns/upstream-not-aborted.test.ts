// Wrong: a route that streams from a provider without passing on the client's disconnect
// Harm: the provider keeps generating, and is paid, while it thinks; only the next token reveals that nobody reads
// Instead: streams/readable
// Probe: fails llm-abort-stops-work, llm-slow-reader-bounded, llm-error-text-clean
import { expect, test } from "vitest";
import { iterate, pullFrom } from "../../src/streams/readable.ts";
import { eventually, gone, serve } from "../support/server.ts";
import { upstreamNotAborted } from "../support/wrong.ts";

test("the provider's connection ends with the client's", async () => {
  const closed: string[] = [];
  const silent =
    (name: string) =>
    (_: unknown, response: import("node:http").ServerResponse): void => {
      response.writeHead(200).write("first token");
      void gone(response).then(() => closed.push(name));
    };
  const provider = await serve({ "/wrong": silent("wrong"), "/right": silent("right") });

  const wrong = upstreamNotAborted(`${provider.origin}/wrong`);
  const right = pullFrom(async function* (signal) {
    const upstream = await fetch(`${provider.origin}/right`, { signal });
    yield* iterate(upstream.body!);
  });
  for (const stream of [wrong, right]) {
    const reader = stream.getReader();
    await reader.read();
    await reader.cancel();
  }
  await eventually(() => closed.length > 0);
  expect(closed).toEqual(["right"]);
});
