// Wrong: no abortSignal.
import { createOpenAI } from "@ai-sdk/openai";
import {
  convertToModelMessages,
  createUIMessageStreamResponse,
  streamText,
  toUIMessageStream,
  type UIMessage,
} from "ai";

export async function POST(request: Request): Promise<Response> {
  const { model, messages } = (await request.json()) as { model: string; messages: UIMessage[] };
  const { stream } = streamText({
    model: createOpenAI().chat(model),
    messages: await convertToModelMessages(messages),
  });
  return createUIMessageStreamResponse({ stream: toUIMessageStream({ stream }) });
}
