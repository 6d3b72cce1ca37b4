// What the tests ask of the application in `nextjs/`.
import { readFileSync } from "node:fs";
import { inject } from "vitest";

export const origin = (): string => inject("nextjs").origin;
export const logText = (): string => readFileSync(inject("nextjs").log, "utf8");

export interface Job {
  id: string;
  publish(type: string, data: unknown, last?: boolean): Promise<void>;
  readers(): Promise<number>;
}

/** A job of its own, with a log of `capacity` events. */
export async function newJob(capacity = 100): Promise<Job> {
  const id = crypto.randomUUID();
  const url = `${origin()}/testing/jobs/${id}`;
  const ok = (response: Response): void => {
    if (!response.ok) throw new Error(`${response.url}: ${response.status}`);
  };
  ok(await fetch(`${url}?capacity=${capacity}`, { method: "PUT" }));
  return {
    id,
    publish: async (type, data, last = false) =>
      ok(await fetch(url, { method: "POST", body: JSON.stringify({ type, data, last }) })),
    readers: async () => ((await (await fetch(url)).json()) as { readers: number }).readers,
  };
}

export async function state(): Promise<{
  counters: Record<string, number>;
  answers: { question: string; text: string; outcome: string }[];
}> {
  return (await fetch(`${origin()}/testing/state`)).json() as Promise<{
    counters: Record<string, number>;
    answers: [];
  }>;
}

/** The exchanges with the scripted model whose request holds `text`. */
export async function exchanges(text: string): Promise<{ end: string; tokens: number }[]> {
  const all = (await (await fetch(`${inject("backend")}/exchanges`)).json()) as {
    end: string;
    tokens: number;
    request: unknown;
  }[];
  return all.filter(({ request }) => JSON.stringify(request).includes(text));
}
