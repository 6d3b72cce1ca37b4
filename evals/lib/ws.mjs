// Grader of the WebSocket task.
import { cpu, eventually, freePort, idleMemory, json, memory, probe, Socket, sleep, within } from "./tools.mjs";

const ORIGIN = "https://board.example";
const PROBED = [
  "ws-ping-answered",
  "ws-close-answered",
  "ws-fragments-accepted",
  "ws-invalid-utf8-1007",
  "ws-violations-survived",
  "ws-malformed-isolated",
  "ws-disconnect-noticed",
  "ws-origin-checked",
];
const text = (value) => JSON.stringify({ text: value });

export async function board(ctx) {
  const port = await freePort();
  const service = await ctx.start(port, { ALLOWED_ORIGIN: ORIGIN, PING_MS: "500" });
  const connect = async () => {
    const socket = await Socket.open(port, "/ws", { origin: ORIGIN });
    if (socket.status !== 101) throw new Error(`the handshake of our own page is answered with ${socket.status}`);
    return socket;
  };
  const clients = async () => (await json(port, "GET", "/stats")).clients;
  const empty = () =>
    eventually(8_000, "connections of clients that left are still counted", async () => (await clients()) === 0);

  await ctx.check("ws-protocol-kept", async () => {
    const [a, b] = [await connect(), await connect()];
    a.send(text("one"));
    const [one, same] = [JSON.parse(await a.next()), JSON.parse(await b.next())];
    b.send(text("two"));
    const two = JSON.parse(await a.next());
    if (one.text !== "one" || same.seq !== one.seq || two.text !== "two" || two.seq !== one.seq + 1)
      throw new Error(JSON.stringify([one, same, two]));
    a.send("{");
    const error = JSON.parse(await a.next());
    if (typeof error.error !== "string" || a.gone)
      throw new Error(`an invalid message is answered with ${JSON.stringify(error)}`);
    if ((await clients()) !== 2) throw new Error(`stats count ${await clients()} of 2 clients`);
    a.close();
    b.close();
    await empty();
    return "broadcast, numbers, errors and stats as they were";
  });

  await ctx.probed(PROBED, () =>
    probe(
      "ws",
      `ws://127.0.0.1:${port}/ws`,
      PROBED,
      ["--origin", ORIGIN, "--message", text("probe"), "--pid", String(service.pid), "--connects", "30"],
      30,
    ),
  );

  await ctx.check("ws-oversize-1009", async () => {
    for (const size of [16 * 1024 + 64, 300_000, 3_000_000]) {
      const socket = await connect();
      socket.send(text("x".repeat(size)));
      await eventually(5_000, `no end after a message of ${size} bytes`, () => socket.code || socket.gone);
      socket.close();
      if (socket.code !== 1009)
        throw new Error(
          `a message of ${size} bytes ends with ${socket.code ?? socket.error ?? "the end of the connection"} instead of Close 1009`,
        );
    }
    const socket = await connect();
    socket.send(text("x".repeat(15_000)));
    await socket.next();
    socket.close();
    return "16.5 KB, 300 KB and 3 MB end with 1009, 15 KB is accepted";
  });

  await ctx.check("ws-silent-peer-dropped", async () => {
    await empty().catch(() => {});
    const left = await clients();
    const [dead, alive] = [await connect(), await connect()];
    dead.pong = false; // the phone in the tunnel: the connection stands, nothing answers
    await eventually(
      6_000,
      "a client that answers no ping is still counted after 12 ping intervals",
      async () => (await clients()) === left + 1,
    );
    if (alive.gone) throw new Error("a client that answers pings was dropped");
    dead.close();
    alive.close();
    return "a client that answers no ping is dropped, one that does stays";
  });

  await ctx.check("ws-stalled-reader-isolated", async () => {
    const stalled = await Promise.all(Array.from({ length: 5 }, connect));
    stalled.forEach((socket) => socket.socket.pause());
    const [writer, reader] = [await connect(), await connect()];
    const before = memory(service.pid);
    let highest = before;
    const total = 3_000;
    for (let i = 0; i < total; i++) {
      writer.send(text(`${i} ${"x".repeat(12_000)}`));
      for (let got = 0; got < 1; got++)
        if ((await writer.next(8_000)) === null)
          throw new Error(`the writer lost its connection after ${i} messages (${writer.code ?? writer.error})`);
      if (i % 100 === 0) highest = Math.max(highest, memory(service.pid));
    }
    await within(
      10_000,
      (async () => {
        for (let i = 0; i < total; i++)
          if ((await reader.next(8_000)) === null)
            throw new Error(`a reader beside them lost its connection after ${i} messages`);
      })(),
      "a reader beside them",
    );
    highest = Math.max(highest, memory(service.pid));
    [...stalled, writer, reader].forEach((socket) => socket.close());
    const grown = Math.round((highest - before) / 1024);
    if (grown > 48) throw new Error(`${grown} MiB for 5 clients that do not read 36 MB each`);
    return `${grown} MiB at most for 5 clients that do not read 36 MB each; the others got all`;
  });

  if (ctx.costs) {
    await empty().catch(() => {});
    const readers = await Promise.all(Array.from({ length: 40 }, connect));
    const from = cpu(service.pid);
    for (let i = 0; i < 200; i++) {
      readers[0].send(text(`${i}`));
      await readers[0].next();
    }
    ctx.cost.cpu_us_per_delivery = Math.round(((cpu(service.pid) - from) * 1000) / (40 * 200));
    readers.forEach((socket) => socket.close());
    await sleep(500);
    ctx.cost.kib_per_idle_connection = await idleMemory(service, 150, connect);
    await sleep(300);
  }

  await ctx.check("ws-shutdown-1001", async () => {
    const open = await Promise.all(Array.from({ length: 5 }, connect));
    for (const socket of open) {
      const feed = socket.feed.bind(socket);
      socket.feed = (data) => {
        const had = socket.code;
        feed(data);
        if (socket.code && !had) socket.send(Buffer.from([socket.code >> 8, socket.code & 255]), 8);
      };
      socket.socket.removeAllListeners("data");
      socket.socket.on("data", (data) => socket.feed(data));
    }
    const end = await service.terminate(6_000);
    await sleep(50);
    const codes = open.map((socket) => socket.code ?? "none");
    if (codes.some((code) => code !== 1001 && code !== 1012))
      throw new Error(`SIGTERM closes with ${codes.join(", ")}`);
    if (end.killed || end.code !== 0)
      throw new Error(`after SIGTERM: ${end.killed ? "still running after 6 s" : end.code}`);
    return `Close ${codes[0]} to all, ended after ${end.took} ms`;
  });
}
