import { expect, test } from "vitest";
import { RetryLater } from "../src/sse/connect.ts";
import { liveState } from "../src/sse/live-state.ts";
import { serve, sse } from "./support/server.ts";

const quick = { minDelay: 1, maxDelay: 5 };
const never = new AbortController().signal;

/** All states up to the last. */
async function states(origin: string): Promise<number[][]> {
  const seen: number[][] = [];
  const live = liveState<number[]>(`${origin}/events`, {
    ...quick,
    signal: never,
    snapshot: async (signal) => (await fetch(`${origin}/snapshot`, { signal })).json(),
    apply: (state, event) => (event.type === "added" ? [...state, Number(event.data)] : state),
  });
  for await (const state of live) seen.push(state);
  return seen;
}

test("continues after the snapshot's cursor, over a cut connection", async () => {
  const cursors: (string | undefined)[] = [];
  const server = await serve({
    "/snapshot": (_request, response) => void response.end(JSON.stringify({ cursor: "a-2", state: [1, 2] })),
    "/events": (request, response, nth) => {
      cursors.push(request.headers["last-event-id"] as string | undefined);
      if (nth === 1) sse(response, "id: a-3\nevent: added\ndata: 3\n\nevent: ping\ndata: {}\n\n").end();
      else sse(response, "id: a-4\nevent: added\ndata: 4\n\nevent: done\ndata: {}\n\n");
    },
  });
  expect((await states(server.origin)).at(-1)).toEqual([1, 2, 3, 4]);
  expect(cursors).toEqual(["a-2", "a-3"]);
});

test("loads the state again after a reset, and keeps nothing of the old one", async () => {
  const cursors: (string | undefined)[] = [];
  let loads = 0;
  const server = await serve({
    "/snapshot": (_request, response) => {
      loads += 1;
      const snapshot = loads === 1 ? { cursor: "a-1", state: [1] } : { cursor: "b-7", state: [10, 11] };
      response.end(JSON.stringify(snapshot));
    },
    "/events": (request, response, nth) => {
      cursors.push(request.headers["last-event-id"] as string | undefined);
      if (nth === 1)
        sse(response, 'id: b-0\nevent: reset\ndata: {"reason":"epoch"}\n\nid: b-1\nevent: added\ndata: 10\n\n');
      else sse(response, "id: b-8\nevent: added\ndata: 12\n\nevent: done\ndata: {}\n\n");
    },
  });
  expect(await states(server.origin)).toEqual([[1], [10, 11], [10, 11, 12], [10, 11, 12]]);
  expect(cursors).toEqual(["a-1", "b-7"]);
  expect(loads).toBe(2);
});

test("another name for the reset, and a snapshot that is away for a while", async () => {
  const server = await serve({
    "/events": (_request, response, nth) =>
      void sse(
        response,
        nth === 1 ? "event: resync\ndata: {}\n\n" : "event: reset\ndata: {}\n\nevent: done\ndata: {}\n\n",
      ),
  });
  let loads = 0;
  const seen: number[] = [];
  const live = liveState<number>(`${server.origin}/events`, {
    ...quick,
    signal: never,
    resetType: "resync",
    snapshot: async () => {
      if (++loads === 2) throw new RetryLater("503");
      return { cursor: `${loads}`, state: loads };
    },
    apply: (state) => state,
  });
  for await (const state of live) seen.push(state);
  // After the first load, after the third, and after each of the two events that follow it.
  expect(seen).toEqual([1, 3, 3, 3]);
});

test("an abort ends it, also while it waits", async () => {
  const server = await serve({
    "/snapshot": (_request, response) => void response.end(JSON.stringify({ cursor: "a-1", state: [] })),
    "/events": (_request, response) => void sse(response, "id: a-0\nevent: reset\ndata: {}\n\n"),
  });
  const abort = new AbortController();
  const live = liveState<number[]>(`${server.origin}/events`, {
    minDelay: 60_000,
    signal: abort.signal,
    snapshot: async (signal) => (await fetch(`${server.origin}/snapshot`, { signal })).json(),
    apply: (state) => state,
  });
  await live.next();
  const next = live.next();
  setTimeout(() => abort.abort(new Error("closed")), 50);
  await expect(next).rejects.toThrow("closed");
});
