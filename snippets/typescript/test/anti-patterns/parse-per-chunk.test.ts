// Wrong: code that decodes and splits each fetch chunk on its own, and expects `data: ` with its space
// Harm: characters cut in two become U+FFFD, lines cut in two are lost or make JSON.parse throw, and CR, CRLF and `data:x` are not read at all
// Instead: sse/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { eventStream } from "../../src/sse/event-stream.ts";

const bytes = new TextEncoder().encode(
  'data: {"content":"Hel😀lo"}\n\ndata:{"content":"no space"}\r\n\r\ndata: {"content":"end"}\n\n',
);

/** The stream with a cut inside the emoji and another inside a line. */
function response(): Response {
  const cuts = [0, 24, 45, bytes.length];
  return new Response(
    new ReadableStream({
      start(controller) {
        for (const [at, cut] of cuts.slice(1).entries()) controller.enqueue(bytes.subarray(cuts[at], cut));
        controller.close();
      },
    }),
  );
}

async function wrong(): Promise<string[]> {
  const contents: string[] = [];
  const reader = response().body!.getReader();
  const decoder = new TextDecoder();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    for (const line of decoder.decode(part.value).split("\n")) {
      if (!line.startsWith("data: ")) continue;
      try {
        contents.push((JSON.parse(line.slice(6)) as { content: string }).content);
      } catch (error) {
        contents.push((error as Error).name);
      }
    }
  }
  return contents;
}

test("a parser of single chunks breaks what the network has cut", async () => {
  expect(await wrong()).toEqual(["SyntaxError", "end"]);
  const contents = [];
  for await (const { data } of response().body!.pipeThrough(eventStream()))
    contents.push((JSON.parse(data) as { content: string }).content);
  expect(contents).toEqual(["Hel😀lo", "no space", "end"]);
});

test("decode without stream: true replaces the halves of a character", () => {
  const decoder = new TextDecoder();
  const halves = [bytes.subarray(0, 24), bytes.subarray(24)];
  expect(halves.map((half) => decoder.decode(half)).join("")).toContain("\ufffd");
  expect(halves.map((half) => decoder.decode(half, { stream: true })).join("")).toContain("Hel😀lo");
});
