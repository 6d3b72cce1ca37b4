// A provider in one file, for tests and demos without a key: OpenAI chat completions, with the faults of the Rust scripted model.
// `node scripted-model.mjs 9000`, then set the base URL to http://127.0.0.1:9000/v1 and the model to `scripted/<name>`.
// It prints a line for each request, with the roles of its messages, and one for its end: `left` says that the client has closed
// the connection.
import { createServer } from "node:http";

const TEXT =
  process.env.TEXT ??
  "Streams end twice: once in the protocol and once in the bytes. Trust the first — „fertig“, 完了, 👩🏽‍🚀 — and treat the second alone as a failure.";
const WORDS = TEXT.match(/[^ ]* ?/g).filter((word) => word !== "");
const CALLS = [
  { name: "get_weather", pieces: '{"city":"Zürich","days":3}'.match(/.{1,7}/gu) },
  { name: "get_time", pieces: [] },
];
/** What each name changes; `half`: after half of the tokens. `slow` is the answer at 10 tokens a second. */
const SCRIPTS = {
  plain: {},
  bytes: { chunk: 1 },
  tools: { calls: CALLS },
  length: { reason: "length" },
  refusal: { field: "refusal" },
  cut: { half: "end" },
  "cut-inside": { half: "inside" },
  abort: { half: "abort" },
  stall: { half: "stall" },
  "hold-head": { holdHead: true },
  error: { half: "error" },
  "rate-limit": { status: 429, retryAfter: 7 },
  overloaded: { status: 529 },
  unauthorized: { status: 401 },
  "late-rate-limit": { status: 429, retryAfter: 7, wait: 1_500 },
  slow: { pace: 100 },
};

let requests = 0;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const data = (value) => `data: ${JSON.stringify(value)}\n\n`;

/** The frames of an answer, each with whether it carries a token. */
function framesOf(id, model, { calls = [], reason, field = "content" }) {
  const event = (choices, usage) =>
    data({ id: `chatcmpl-${id}`, object: "chat.completion.chunk", created: 1767225600, model, choices, usage });
  const delta = (delta, finish_reason = null) => event([{ index: 0, delta, logprobs: null, finish_reason }], null);
  const call = (index, rest) => delta({ tool_calls: [{ index, ...rest }] });
  const frames = [{ text: delta({ role: "assistant", content: "", refusal: null }) }];
  for (const word of WORDS) frames.push({ text: delta({ [field]: word }), token: true });
  for (const [index, { name }] of calls.entries())
    frames.push({ text: call(index, { id: `call_${index}`, type: "function", function: { name, arguments: "" } }) });
  for (const [index, { pieces }] of calls.entries())
    for (const piece of pieces) frames.push({ text: call(index, { function: { arguments: piece } }), token: true });
  frames.push({ text: delta({}, reason ?? (calls.length > 0 ? "tool_calls" : "stop")) });
  const output = frames.filter(({ token }) => token).length;
  const usage = {
    prompt_tokens: 12,
    completion_tokens: output,
    total_tokens: 12 + output,
    prompt_tokens_details: { cached_tokens: 4 },
    completion_tokens_details: { reasoning_tokens: 0 },
  };
  return [...frames, { text: event([], usage) }, { text: "data: [DONE]\n\n" }];
}

/** As providers write it: it names the account, which no end user may read. */
function errorBody(status) {
  const [type, code] = { 401: ["invalid_request_error", "invalid_api_key"], 429: ["requests", "rate_limit_exceeded"] }[
    status
  ] ?? ["server_error", null];
  return { error: { message: "The server had an error (org-scripted, key sk-…cret)", type, param: null, code } };
}

async function play(response, script, frames) {
  const { half, chunk, pace = 0 } = script;
  if (half) {
    const tokens = frames.flatMap(({ token }, at) => (token ? [at] : []));
    const rest = frames.splice(tokens[Math.max(1, tokens.length >> 1) - 1] + 1);
    if (half === "inside") frames.push({ text: rest[0].text.slice(0, rest[0].text.trimEnd().length >> 1) });
    if (half === "error") frames.push({ text: data(errorBody(500)) });
  }
  const bytes = chunk
    ? [...Buffer.from(frames.map(({ text }) => text).join(""))].map((byte) => Buffer.of(byte))
    : frames;
  for (const each of bytes) {
    if (each.token) await sleep(pace);
    if (response.destroyed) return;
    response.write(each.text ?? each);
    await new Promise(setImmediate); // each chunk goes out alone
  }
  if (half === "abort") response.socket.end();
  else if (half !== "stall") response.end();
}

const server = createServer(async (request, response) => {
  const id = ++requests;
  const parts = [];
  for await (const part of request) parts.push(part);
  let model;
  let messages;
  try {
    ({ model, messages } = JSON.parse(Buffer.concat(parts).toString()));
  } catch {
    return response.writeHead(400).end("not JSON");
  }
  const script = SCRIPTS[String(model).replace("scripted/", "")] ?? (String(model).startsWith("scripted/") ? null : {});
  if (script === null)
    return response.writeHead(404).end(`no such script; there are: ${Object.keys(SCRIPTS).join(", ")}`);
  console.log(`${id} ${model} begun (${messages?.map?.((message) => message?.role)})`);
  response.on("close", () => console.log(`${id} ${model} ${response.writableFinished ? "ended" : "left"}`));
  if (script.status) {
    await sleep(script.wait ?? 0);
    const headers = { "content-type": "application/json" };
    if (script.retryAfter) headers["retry-after"] = script.retryAfter;
    return response.writeHead(script.status, headers).end(JSON.stringify(errorBody(script.status)));
  }
  if (script.holdHead) return;
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  await play(response, script, framesOf(id, model, script));
});

server.listen(Number(process.argv[2] ?? 0), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}`);
});
