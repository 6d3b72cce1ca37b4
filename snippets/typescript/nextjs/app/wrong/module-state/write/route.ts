import { answers } from "@/lib/answers.ts";
import { names } from "../state.ts";

export async function POST(request: Request): Promise<Response> {
  const name = await request.text();
  names.push(name);
  answers.push({ text: name, outcome: "module-state" });
  return Response.json(names);
}
