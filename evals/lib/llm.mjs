// Grader of the relay.
import http from "node:http";
import { cpu, Events, eventually, freePort, idleMemory, probe, Service, sleep, tool } from "./tools.mjs";

const KEY = "sk-eval-3f9a";
const PROBED = [
  "llm-headers-before-token",
  "llm-heartbeat-before-token",
  "llm-incremental",
  "llm-no-buffering-headers",
  "llm-one-terminal",
  "llm-truncation-visible",
  "llm-provider-error-visible",
  "llm-abort-stops-work",
  "llm-slow-reader-bounded",
  "llm-error-text-clean",
  "llm-split-utf8",
  "llm-unsafe-characters",
];

/** A provider whose every byte the grader decides: `answer(response, body)` by the prompt. */
async function provider(port, answers) {
  const seen = new Map();
  const server = http.createServer((request, response) => {
    let text = "";
    request.on("data", (data) => (text += data));
    request.on("end", () => {
      const prompt = JSON.parse(text).messages.at(-1).content;
      const call = { open: true };
      seen.set(prompt, call);
      response.on("close", () => (call.open = false));
      answers[prompt.split(" ")[0]]?.(response);
    });
  });
  server.listen(port, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { seen, close };
}

const head = (response) => response.writeHead(200, { "content-type": "text/event-stream" });
const chunk = (delta, finish_reason = null) =>
  `data: ${JSON.stringify({ id: "c1", object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason }] })}\n\n`;
const USAGE = `data: ${JSON.stringify({ id: "c1", object: "chat.completion.chunk", choices: [], usage: { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 } })}\n\n`;

export async function relay(ctx) {
  const port = await freePort();
  const upstream = await freePort();
  const env = { OPENAI_BASE_URL: `http://127.0.0.1:${upstream}/v1`, OPENAI_API_KEY: KEY, HEARTBEAT_MS: "1000" };
  const service = await ctx.start(port, env);
  const ask = (prompt, model = "scripted/plain", at = port) =>
    Events.open(at, "/chat", { method: "POST", body: { model, prompt } });
  const read = async (stream) => {
    const all = [];
    for (let event; (event = await stream.next(8_000)); ) {
      all.push(event);
      if (event.type === "done" || event.type === "failed") break;
    }
    stream.close();
    const text = all
      .filter((event) => event.type === "delta")
      .map((event) => JSON.parse(event.data).text)
      .join("");
    const last = all.at(-1);
    return { text, last, data: last && last.type !== "delta" ? JSON.parse(last.data) : {}, raw: stream.raw };
  };
  const done = (answer) => {
    if (answer.last?.type !== "done")
      throw new Error(
        `ended with ${answer.last?.type ?? "nothing"} ${answer.last?.data ?? ""} after ${JSON.stringify(answer.text.slice(0, 80))}`,
      );
    return answer;
  };

  await ctx.probed(PROBED, () =>
    probe(
      "llm",
      `http://127.0.0.1:${port}/chat`,
      PROBED,
      [
        "-d",
        JSON.stringify({ model: "m", prompt: "hi" }),
        "--upstream",
        `127.0.0.1:${upstream}`,
        "--pid",
        String(service.pid),
        "--heartbeat",
        "3",
      ],
      60,
    ),
  );

  const answers = {
    silent: () => {},
    pause: (response) => head(response).write(chunk({ content: "Hel" })),
    slow: (response) =>
      setTimeout(() => head(response).end(`${chunk({ content: "late" })}${chunk({}, "stop")}data: [DONE]\n\n`), 2_500),
    usage: (response) =>
      head(response).end(
        `${chunk({ role: "assistant", content: "" })}${chunk({ content: "Hi" })}${chunk({}, "stop")}${USAGE}data: [DONE]\n\n`,
      ),
    nospace: (response) =>
      head(response).end(
        `: hello\r\n\r\n${(chunk({ content: "Hi" }) + chunk({}, "stop")).replaceAll("data: ", "data:").replaceAll("\n", "\r\n")}data:[DONE]\r\n\r\n`,
      ),
    long: (response) => {
      head(response);
      for (let i = 0; i < 400; i++) response.write(chunk({ content: `${i} ` }));
      response.end(`${chunk({}, "stop")}data: [DONE]\n\n`);
    },
    html: (response) =>
      response.writeHead(200, { "content-type": "text/html" }).end("<h1>maintenance of gw-3.internal</h1>"),
    refused: (response) =>
      response
        .writeHead(401, { "content-type": "application/json" })
        .end(JSON.stringify({ error: { message: `Incorrect API key provided: ${KEY}` } })),
  };
  const model = await provider(upstream, answers);
  try {
    await ctx.check("llm-stop-before-head", async () => {
      const request = ask("silent 1");
      request.catch(() => {});
      await eventually(5_000, "the provider is not asked", () => model.seen.get("silent 1"));
      // Stop: the page aborts its request, before or after the head of our response.
      const aborted = await Promise.race([request, sleep(1_500).then(() => null)]);
      if (aborted) aborted.close();
      else throw new Error("no head of the response while the provider has not answered");
      await eventually(
        2_000,
        "the provider's connection is still open 2 s after Stop, before its answer began",
        () => !model.seen.get("silent 1").open,
      );
      return "Stop before the provider's head closes its connection";
    });
    await ctx.check("llm-stop-in-pause", async () => {
      const stream = await ask("pause 1");
      await stream.next();
      stream.close();
      await eventually(
        2_000,
        "the provider's connection is still open 2 s after Stop in a pause",
        () => !model.seen.get("pause 1").open,
      );
      return "Stop in a pause of the model closes the provider's connection";
    });
    await ctx.check("llm-silence-kept-alive", async () => {
      const stream = await ask("slow 1");
      const { text } = done(await read(stream));
      const before = stream.raw.slice(0, stream.raw.indexOf("late"));
      if (text !== "late" || !/\n(:|event: ?\w|data:)/.test(`\n${before}`.replace(/event: ?delta[^]*$/, "")))
        throw new Error("nothing was sent while the model was silent for 2.5 s");
      return "something is sent while the model is silent";
    });
    await ctx.check("llm-usage-chunk-without-choices", async () => {
      const { text, data } = done(await read(await ask("usage 1")));
      const { input, output } = data.usage ?? {};
      if (text !== "Hi" || input !== 11 || output !== 7 || data.finish_reason !== "stop")
        throw new Error(`text ${JSON.stringify(text)}, done ${JSON.stringify(data)}`);
      return `done ${JSON.stringify(data)}`;
    });
    await ctx.check("llm-any-framing", async () => {
      const { text } = done(await read(await ask("nospace 1")));
      if (text !== "Hi")
        throw new Error(`of a stream with CRLF and without the space after the colon arrived ${JSON.stringify(text)}`);
      return "CRLF, comments and no space after the colon are read";
    });
    await ctx.check("llm-status-and-type-first", async () => {
      for (const prompt of ["html 1", "refused 1"]) {
        const stream = await ask(prompt);
        if (stream.status >= 400) {
          await stream.ended;
          if (/internal|sk-eval/.test(stream.raw))
            throw new Error(`${prompt}: the client is told ${stream.raw.slice(0, 120)}`);
          continue;
        }
        const { last, raw } = await read(stream);
        if (last?.type !== "failed") throw new Error(`${prompt}: ended with ${last?.type ?? "nothing"}`);
        if (/internal|sk-eval/.test(raw)) throw new Error(`${prompt}: the client is told ${last.data.slice(0, 120)}`);
      }
      return "an HTML page with 200 and a 401 fail with a code of our own";
    });
    if (ctx.costs) {
      const before = cpu(service.pid);
      for (let i = 0; i < 10; i++) await read(await ask(`long ${i}`));
      ctx.cost.cpu_us_per_token = Math.round(((cpu(service.pid) - before) * 1000) / 4_000);
      ctx.cost.kib_per_idle_connection = await idleMemory(service, 60, () => ask("pause 2"));
    }
  } finally {
    model.close();
  }
  await service.kill();

  // The same service in front of the scripted model.
  const scripted = await freePort();
  const program = new Service(
    tool("examples/scripted_model", ["-p", "snippets", "--example", "scripted_model"]),
    [String(scripted)],
    {},
  );
  ctx.services.push(program);
  await program.listening(scripted);
  const second = await freePort();
  await ctx.start(second, { ...env, OPENAI_BASE_URL: `http://127.0.0.1:${scripted}/v1` });
  const fault = async (name) => read(await ask("?", `scripted/${name}`, second));
  let plain = "";
  await ctx.check("llm-decode-any-cut", async () => {
    plain = done(await fault("plain")).text;
    const bytes = done(await fault("bytes")).text;
    if (bytes !== plain || plain.includes("\ufffd") || plain === "")
      throw new Error(`byte by byte: ${JSON.stringify(bytes.slice(0, 80))}`);
    return `${plain.length} characters, the same byte by byte`;
  });
  await ctx.check("llm-finish-reason-kept", async () => {
    const { data } = done(await fault("length"));
    if (data.finish_reason !== "length")
      throw new Error(`an answer cut by the token limit says ${JSON.stringify(data)}`);
    return "length";
  });
  await ctx.check("llm-complete-needs-terminal-event", async () => {
    for (const name of ["cut", "cut-inside", "abort", "error"]) {
      const answer = await fault(name).catch((error) => ({ last: { type: error.message } }));
      if (answer.last?.type !== "failed")
        throw new Error(`${name}: the client is told ${answer.last?.type ?? "nothing"} ${answer.last?.data ?? ""}`);
    }
    return "cut between and inside events, aborted, error in mid-stream: failed";
  });
}
