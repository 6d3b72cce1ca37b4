// The events of an SSE body, for the live examples; the pack's own client is in
// snippets/typescript. Enough for what the relay sends: LF line ends, one `data` line an event.

/** Yields `{ name, id, data }`. Leaving the loop cancels the body, which closes the connection. */
export async function* readEvents(body) {
  let rest = "";
  for await (const chunk of chunks(body)) {
    const blocks = (rest + chunk).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = {};
      for (const line of block.split("\n")) {
        const [, field, value] = /^(event|data|id): (.*)$/.exec(line) ?? [];
        if (field) event[field] = value;
      }
      if (event.data !== undefined) yield { name: event.event ?? "message", id: event.id, data: event.data };
    }
  }
}

async function* chunks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
