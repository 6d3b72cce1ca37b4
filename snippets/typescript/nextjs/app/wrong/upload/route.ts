// Wrong: proxy.ts matches this path.
export async function POST(request: Request): Promise<Response> {
  let bytes = 0;
  for await (const chunk of request.body ?? []) bytes += chunk.byteLength;
  return Response.json({ bytes });
}
