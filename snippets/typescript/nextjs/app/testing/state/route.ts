import { answers } from "@/lib/answers.ts";
import { counters } from "../counters.ts";

export async function GET(request: Request): Promise<Response> {
  void request.headers;
  return Response.json({ counters, answers: answers.all() });
}
