import { answers } from "@/lib/answers.ts";
import { names } from "../state.ts";

export async function POST(request: Request): Promise<Response> {
  const name = await request.text();
  names.push(name);
  answers.push({ question: "module-state", text: name, outcome: "done" });
  return Response.json(names);
}
