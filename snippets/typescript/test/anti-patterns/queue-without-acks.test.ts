// Wrong: an array of messages to send again after a reconnect, emptied as they are sent, with neither ids nor answers
// Harm: a message that was sent but not executed is lost, and one that was executed before the cut is executed twice
// Instead: websocket/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { Outbox } from "../../src/websocket/outbox.ts";

/** A connection that takes messages, and a server that may carry them out and may answer, or not, before it is cut. */
class Connection {
  readonly carriedOut: string[] = [];
  readonly known = new Set<string>();
  mode: "cut before the effect" | "cut after the effect" | "well" = "well";
  take(id: string, body: string): boolean {
    if (this.mode === "cut before the effect") return false;
    if (!this.known.has(id)) this.carriedOut.push(body);
    this.known.add(id);
    return this.mode === "well";
  }
}

test("a queue that forgets at send loses, one that repeats without ids does twice", async () => {
  for (const mode of ["cut before the effect", "cut after the effect"] as const) {
    // Forgets at send: the order is lost when the connection is cut before its effect.
    const forgetting = new Connection();
    forgetting.mode = mode;
    const queue = ["pay"];
    forgetting.take("-", queue.shift()!);
    forgetting.mode = "well";
    for (const body of queue) forgetting.take("-", body);

    // Repeats under no name: it is paid twice when the cut came after the effect.
    const repeating = new Connection();
    repeating.mode = mode;
    repeating.take("first", "pay");
    repeating.mode = "well";
    repeating.take("second", "pay");

    const outcome = `${forgetting.carriedOut.length} ${repeating.carriedOut.length}`;
    expect(outcome).toBe(mode === "cut before the effect" ? "0 1" : "1 2");

    const server = new Connection();
    server.mode = mode;
    const outbox = new Outbox<string>(({ id, body }) => {
      if (server.take(id, body)) queueMicrotask(() => outbox.acknowledge(id, undefined));
      return true; // the browser took it; that says nothing
    });
    const paid = outbox.send("pay");
    server.mode = "well";
    outbox.resend();
    await paid;
    expect(server.carriedOut).toEqual(["pay"]);
  }
});
