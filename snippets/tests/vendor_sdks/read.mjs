// node read.mjs <base URL of the scripted model> <script name>…
// Every SDK reads every script; prints one JSON object a line:
// {sdk, script, text, calls: [[name, arguments]], finish, threw}
// The script "stall" is read until the model is silent, then aborted.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { jsonSchema, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";

const [base, ...scripts] = process.argv.slice(2);
// Some SDKs log what they cannot parse; standard output belongs to the results.
console.error = console.warn = () => {};

// Before the clients are made: they keep the fetch of that moment.
let whenAnswered = () => {};
const fetch = globalThis.fetch;
globalThis.fetch = async (...request) => {
  const response = await fetch(...request);
  whenAnswered();
  return response;
};

const openai = new OpenAI({ apiKey: "none", baseURL: `${base}/v1`, maxRetries: 0 });
const anthropic = new Anthropic({ apiKey: "none", baseURL: base, maxRetries: 0 });
const gemini = new GoogleGenAI({ apiKey: "none", httpOptions: { baseUrl: base } });
const ollama = new Ollama({ host: base });
const messages = [{ role: "user", content: "hello" }];

/** What an SDK has given so far; filled in while the stream is read, so that a throw leaves the rest. */
const result = () => ({ text: "", calls: [], finish: null });

const readers = {
  "openai create": async (model, r, signal) => {
    const stream_options = { include_usage: true };
    const stream = await openai.chat.completions.create({ model, messages, stream: true, stream_options }, { signal });
    for await (const chunk of stream) {
      const choice = chunk.choices[0];
      if (!choice) continue;
      r.text += choice.delta.content ?? choice.delta.refusal ?? "";
      for (const call of choice.delta.tool_calls ?? []) {
        r.calls[call.index] ??= ["", ""];
        r.calls[call.index][0] += call.function.name ?? "";
        r.calls[call.index][1] += call.function.arguments ?? "";
      }
      r.finish = choice.finish_reason ?? r.finish;
    }
  },
  "openai stream": async (model, r, signal) => {
    const stream = openai.chat.completions.stream({ model, messages }, { signal });
    const { message, finish_reason } = (await stream.finalChatCompletion()).choices[0];
    r.text = message.content || message.refusal || "";
    r.calls = (message.tool_calls ?? []).map((call) => [call.function.name, call.function.arguments]);
    r.finish = finish_reason;
  },
  "openai responses create": async (model, r, signal) => {
    for await (const event of await openai.responses.create({ model, input: "hello", stream: true }, { signal })) {
      if (event.type === "response.output_text.delta" || event.type === "response.refusal.delta") r.text += event.delta;
      if (event.type === "response.output_item.done" && event.item.type === "function_call")
        r.calls.push([event.item.name, event.item.arguments]);
      if (event.type === "response.completed") r.finish = "completed";
      if (event.type === "response.incomplete") r.finish = event.response.incomplete_details.reason;
    }
  },
  "openai responses stream": async (model, r, signal) => {
    const response = await openai.responses.stream({ model, input: "hello" }, { signal }).finalResponse();
    for (const item of response.output) {
      if (item.type === "message") r.text = item.content.map((part) => part.text ?? part.refusal).join("");
      if (item.type === "function_call") r.calls.push([item.name, item.arguments]);
    }
    r.finish = response.incomplete_details?.reason ?? response.status;
  },
  "anthropic create": async (model, r, signal) => {
    for await (const event of await anthropic.messages.create(
      { model, messages, max_tokens: 99, stream: true },
      { signal },
    )) {
      if (event.type === "content_block_start" && event.content_block.type === "tool_use")
        r.calls.push([event.content_block.name, ""]);
      if (event.type === "content_block_delta") {
        r.text += event.delta.text ?? "";
        if (event.delta.type === "input_json_delta") r.calls.at(-1)[1] += event.delta.partial_json;
      }
      if (event.type === "message_delta") r.finish = event.delta.stop_reason;
    }
  },
  "anthropic stream": async (model, r, signal) => {
    const message = await anthropic.messages.stream({ model, messages, max_tokens: 99 }, { signal }).finalMessage();
    for (const block of message.content) {
      if (block.type === "text") r.text += block.text;
      if (block.type === "tool_use") r.calls.push([block.name, JSON.stringify(block.input)]);
    }
    r.finish = message.stop_reason;
  },
  "google genai": async (model, r, signal) => {
    const request = { model: `models/${model}`, contents: "hello", config: { abortSignal: signal } };
    for await (const chunk of await gemini.models.generateContentStream(request)) {
      const candidate = chunk.candidates?.[0];
      for (const part of candidate?.content?.parts ?? []) {
        if (part.text && !part.thought) r.text += part.text;
        if (part.functionCall) r.calls.push([part.functionCall.name, JSON.stringify(part.functionCall.args)]);
      }
      r.finish = candidate?.finishReason ?? r.finish;
    }
  },
  ollama: async (model, r, signal) => {
    const lines = await ollama.chat({ model, messages, stream: true });
    signal?.addEventListener("abort", () => lines.abort());
    for await (const line of lines) {
      r.text += line.message.content;
      for (const call of line.message.tool_calls ?? [])
        r.calls.push([call.function.name, JSON.stringify(call.function.arguments)]);
      if (line.done) r.finish = line.done_reason;
    }
  },
  "ai with openai": (model, r, signal) =>
    ai(createOpenAI({ apiKey: "none", baseURL: `${base}/v1` }).chat(model), r, signal),
  "ai with openai responses": (model, r, signal) =>
    ai(createOpenAI({ apiKey: "none", baseURL: `${base}/v1` }).responses(model), r, signal),
  "ai with anthropic": (model, r, signal) =>
    ai(createAnthropic({ apiKey: "none", baseURL: `${base}/v1` }).languageModel(model), r, signal),
};

async function ai(model, r, abortSignal) {
  const inputSchema = jsonSchema({ type: "object" });
  const tools = { get_weather: tool({ inputSchema }), get_time: tool({ inputSchema }) };
  const answer = streamText({ model, prompt: "hello", tools, maxRetries: 0, onError() {}, abortSignal });
  for await (const part of answer.stream) {
    if (part.type === "text-delta") r.text += part.text;
    if (part.type === "tool-call") r.calls.push([part.toolName, JSON.stringify(part.input)]);
    if (part.type === "finish") r.finish = part.finishReason;
    if (part.type === "abort") r.finish = "abort";
    if (part.type === "error") throw part.error;
  }
}

for (const script of scripts) {
  for (const [sdk, read] of Object.entries(readers)) {
    const r = result();
    const abort = new AbortController();
    // After the head: before it, every SDK throws.
    whenAnswered = script === "stall" ? () => setTimeout(() => abort.abort(), 100) : () => {};
    let threw = null;
    try {
      await read(`scripted/${script}`, r, script === "stall" ? abort.signal : undefined);
    } catch (error) {
      threw = error.constructor.name;
    }
    console.log(JSON.stringify({ sdk, script, ...r, threw }));
  }
}
