// What ReadableStream does, as functions that run in Node and in Chromium alike.

const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));
const nameOf = (error: unknown): string => (error as Error).name;

export async function enqueueInStartIgnoresTheReader(): Promise<number | null> {
  let size: number | null = 0;
  new ReadableStream({
    async start(controller) {
      for (let at = 0; at < 100; at++) {
        controller.enqueue("chunk");
        await Promise.resolve();
      }
      size = controller.desiredSize;
    },
  });
  await tick();
  return size;
}

export async function pullsWithoutReader(highWaterMark: number): Promise<number> {
  let pulls = 0;
  const pull = (controller: ReadableStreamDefaultController<string>): void => {
    pulls++;
    controller.enqueue("chunk");
  };
  new ReadableStream({ pull }, { highWaterMark });
  await tick();
  return pulls;
}

export async function afterCancel(): Promise<string[]> {
  let controller!: ReadableStreamDefaultController;
  const stream = new ReadableStream({ start: (its) => void (controller = its) });
  await stream.cancel();
  return (["enqueue", "close", "error"] as const).map((method) => {
    try {
      controller[method]("x");
      return `${method} ok`;
    } catch (error) {
      return `${method} ${nameOf(error)}`;
    }
  });
}

export async function errorDiscardsTheQueue(): Promise<string[]> {
  const seen = [];
  for (const end of ["error", "close"] as const) {
    const reader = new ReadableStream({
      start(controller) {
        controller.enqueue("last words");
        if (end === "error") controller.error(new Error("x"));
        else controller.close();
      },
    }).getReader();
    seen.push(
      await reader.read().then(
        ({ value }) => `${end} ${value}`,
        () => `${end} lost`,
      ),
    );
  }
  return seen;
}

export async function teeBuffersForTheSlowBranch(): Promise<{ pulled: number; cancelled: number; after: number }> {
  let pulled = 0;
  let cancelled = 0;
  const [fast, slow] = new ReadableStream<number>({
    pull: (controller) => (pulled < 1_000 ? controller.enqueue(pulled++) : controller.close()),
    cancel: () => void (cancelled += 1),
  }).tee();
  const reader = fast.getReader();
  while (pulled < 1_000) await reader.read();
  const before = pulled;
  void reader.cancel();
  await tick();
  const afterOne = cancelled;
  // The slow branch gets all of it from memory.
  const { value } = await slow.getReader().read();
  return { pulled: before, cancelled: afterOne, after: value! };
}

export async function transformEnds(): Promise<string[]> {
  const calls: string[] = [];
  const run = (source: ReadableStream<string>, name: string): ReadableStream<string> =>
    source.pipeThrough(
      // The type of `cancel` is not in TypeScript's DOM library either.
      new TransformStream<string, string>({
        flush: () => void calls.push(`${name} flush`),
        cancel: () => void calls.push(`${name} cancel`),
      } as Transformer<string, string>),
    );
  const chunks = (): ReadableStream<string> =>
    new ReadableStream({
      start: (controller) => {
        controller.enqueue("a");
        controller.close();
      },
    });
  const complete = run(chunks(), "complete").getReader();
  while (!(await complete.read()).done);
  const endless = new ReadableStream<string>({ pull: (controller) => controller.enqueue("a") });
  const cancelled = run(endless, "cancelled").getReader();
  await cancelled.read();
  await cancelled.cancel();
  const failing = new ReadableStream<string>({ pull: (controller) => controller.error(new Error("x")) });
  await run(failing, "failed")
    .getReader()
    .read()
    .catch(() => undefined);
  await tick();
  return calls;
}

export async function transformErrorCancelsTheSource(): Promise<string> {
  let reason = "";
  const source = new ReadableStream<string>({
    pull: (controller) => controller.enqueue("a"),
    cancel: (error: Error) => void (reason = error.message),
  });
  const broken = new TransformStream<string, string>({
    transform: () => {
      throw new Error("broken");
    },
  });
  await source
    .pipeThrough(broken)
    .getReader()
    .read()
    .catch(() => undefined);
  await tick();
  return reason;
}

export function decoding(): string[] {
  const [first, second] = [Uint8Array.of(0xf0, 0x9f), Uint8Array.of(0x98, 0x80)];
  const stateful = new TextDecoder();
  const cut = new TextDecoder();
  return [
    new TextDecoder().decode(first) + new TextDecoder().decode(second),
    stateful.decode(first, { stream: true }) + stateful.decode(second, { stream: true }),
    cut.decode(first, { stream: true }),
    cut.decode(), // the final call says that something was cut
  ];
}

export async function surrogates(): Promise<string[]> {
  const [high, low] = ["\ud83d", "\ude00"];
  const each =
    new TextDecoder().decode(new TextEncoder().encode(high)) + new TextDecoder().decode(new TextEncoder().encode(low));
  const joined = new ReadableStream<string>({
    start: (controller) => {
      controller.enqueue(high);
      controller.enqueue(low);
      controller.close();
    },
  }).pipeThrough(new TextEncoderStream());
  const cut = [..."👨‍👩‍👧"][0]!;
  const whole = [...new Intl.Segmenter("en", { granularity: "grapheme" }).segment("👨‍👩‍👧")].length;
  return [each, await new Response(joined).text(), cut, String(whole)];
}

export async function locking(): Promise<string[]> {
  const stream = new ReadableStream();
  const reader = stream.getReader();
  const pending = reader.read();
  let second = "";
  try {
    stream.getReader();
  } catch (error) {
    second = nameOf(error);
  }
  reader.releaseLock();
  return [second, await pending.then(() => "read", nameOf)];
}

export async function breakCancels(): Promise<number> {
  let cancelled = 0;
  const stream = new ReadableStream<number>({
    pull: (controller) => controller.enqueue(1),
    cancel: () => void (cancelled += 1),
  });
  for await (const _ of stream) break;
  return cancelled;
}

export async function generatorFinallyIsLate(): Promise<string[]> {
  const order: string[] = [];
  let release = (): void => undefined;
  const waiting = new Promise<void>((resolve) => (release = resolve));
  async function* produce(): AsyncGenerator<number> {
    try {
      await waiting;
      yield 1;
    } finally {
      order.push("finally");
    }
  }
  const generator = produce();
  void generator.next();
  const returned = generator.return(undefined);
  await tick();
  order.push("asked to return");
  release();
  await returned;
  return order;
}

export function support(): Record<string, boolean> {
  return {
    asyncIterator: Symbol.asyncIterator in ReadableStream.prototype,
    from: "from" in ReadableStream,
    webSocketStream: "WebSocketStream" in globalThis,
  };
}

export async function generatorAsBody(): Promise<string> {
  async function* chunks(): AsyncGenerator<Uint8Array> {
    yield new TextEncoder().encode("streamed");
  }
  return new Response(chunks() as unknown as BodyInit).text();
}
