// Takes a body of any size as it comes.
// ANCHOR: route
export async function POST(request: Request): Promise<Response> {
  let bytes = 0;
  for await (const chunk of request.body ?? []) bytes += chunk.byteLength;
  // What the client says it sends, where it says so: a cut body must not count as a whole one.
  const announced = Number(request.headers.get("content-length") ?? bytes);
  return Response.json({ bytes }, { status: bytes === announced ? 200 : 400 });
}
// ANCHOR_END: route
