// Makes a job, and publishes its events.
import { EventLog } from "@/lib/event-log.ts";
import { jobs } from "@/lib/jobs.ts";

type Context = { params: Promise<{ id: string }> };

export async function PUT(request: Request, { params }: Context): Promise<Response> {
  jobs.set((await params).id, new EventLog(Number(new URL(request.url).searchParams.get("capacity") ?? 100)));
  return new Response(null, { status: 204 });
}

export async function POST(request: Request, { params }: Context): Promise<Response> {
  const { type, data, last } = (await request.json()) as { type: string; data: unknown; last?: boolean };
  jobs.get((await params).id)!.publish(type, data, last);
  return new Response(null, { status: 204 });
}

export async function GET(_: Request, { params }: Context): Promise<Response> {
  return Response.json({ readers: jobs.get((await params).id)?.readers });
}
