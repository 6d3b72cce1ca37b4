// Wrong: the provider is not told that the client has left.
import OpenAI from "openai";
import { encodeEvent, STREAM_HEADERS } from "@/streaming/sse/encode.ts";

export async function POST(request: Request): Promise<Response> {
  const { model, messages } = (await request.json()) as { model: string; messages: [] };
  const stream = await new OpenAI().chat.completions.create({ model, messages, stream: true });
  const body = new ReadableStream({
    async start(controller) {
      for await (const chunk of stream) {
        controller.enqueue(encodeEvent({ type: "text", data: { text: chunk.choices[0]?.delta.content } }));
      }
      controller.close();
    },
  });
  return new Response(body, { headers: STREAM_HEADERS });
}
