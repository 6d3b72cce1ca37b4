// node ui.mjs <base URL> <script name>…
// The AI SDK's own chat, as useChat runs it, against POST /chat of the test; one JSON object a line:
// {script, status, finish: {isAbort, isDisconnect, isError, finishReason}, error, message}
import { AbstractChat, DefaultChatTransport, readUIMessageStream } from "ai";

const [base, ...scripts] = process.argv.slice(2);

class Chat extends AbstractChat {
  constructor(options) {
    const state = {
      status: "ready",
      error: undefined,
      messages: [],
      pushMessage: (message) => state.messages.push(message),
      popMessage: () => state.messages.pop(),
      replaceMessage: (index, message) => (state.messages[index] = message),
      snapshot: (thing) => structuredClone(thing),
    };
    super({ ...options, state });
  }
}

for (const script of scripts) {
  let finish = null;
  let error = null;
  const transport = new DefaultChatTransport({ api: `${base}/chat`, body: { script } });
  const chat = new Chat({
    transport,
    onFinish: ({ isAbort, isDisconnect, isError, finishReason }) => {
      finish = { isAbort, isDisconnect, isError, finishReason: finishReason ?? null };
    },
    onError: (e) => (error = `${e.name}: ${e.message}`),
  });
  await chat.sendMessage({ text: "hello" });
  const message = chat.messages.find((message) => message.role === "assistant") ?? null;
  console.log(JSON.stringify({ script, status: chat.status, finish, error, message }));
}

// The same parts without a chat, as a server or a test reads them.
const transport = new DefaultChatTransport({ api: `${base}/chat` });
const messages = [{ id: "1", role: "user", parts: [{ type: "text", text: "hello" }] }];
const stream = await transport.sendMessages({
  chatId: "c",
  messages,
  trigger: "submit-message",
  body: { script: scripts[0] },
});
let last;
for await (const message of readUIMessageStream({ stream })) last = message;
console.log(JSON.stringify({ script: "readUIMessageStream", message: last }));
