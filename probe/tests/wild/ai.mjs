// A chat route as the AI SDK's documentation has it, on node:http.
import { createServer } from "node:http";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const [, , shape] = process.argv;
const provider = createOpenAICompatible({ name: "probe", apiKey: "none", baseURL: process.env.UPSTREAM });
const server = createServer((request, response) => {
  let body = "";
  request.on("data", (data) => {
    body += data;
  });
  request.on("end", () => {
    let prompt;
    try {
      prompt = JSON.parse(body).prompt;
    } catch {
      response.writeHead(400).end("bad request");
      return;
    }
    const abort = new AbortController();
    response.on("close", () => abort.abort());
    const result = streamText({ model: provider("m"), prompt, abortSignal: abort.signal, maxRetries: 0, onError() {} });
    if (shape === "text") result.pipeTextStreamToResponse(response);
    else result.pipeUIMessageStreamToResponse(response);
  });
});
server.listen(0, "127.0.0.1", () => console.log(`listening 127.0.0.1:${server.address().port}`));
