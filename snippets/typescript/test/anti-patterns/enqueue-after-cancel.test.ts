// Wrong: a heartbeat by setInterval that enqueues, and `finally { controller.close() }`, without a cancel()
// Harm: after the client has left both throw ERR_INVALID_STATE; from the timer it is an uncaughtException, which ends a Node process
// Instead: streams/readable
// Probe: cannot see: the process ends with the first reader that leaves: everything fails from there on
import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { withHeartbeat } from "../../src/streams/readable.ts";

const wrong = `
  const stream = new ReadableStream({
    start(controller) {
      setInterval(() => controller.enqueue(":\\n\\n"), 5);
    },
  });
  const reader = stream.getReader();
  await reader.read();
  await reader.cancel();
`;

test("a heartbeat without an owner ends the process", async () => {
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "--eval", wrong], {
    encoding: "utf8",
    timeout: 20_000,
  });
  expect(status).toBe(1);
  expect(stderr).toContain("ERR_INVALID_STATE");

  // The pattern's timer lives while the reader waits: nothing is left after cancel(), and this process is still here.
  const reader = withHeartbeat(new ReadableStream<string>(), ":", 5).getReader();
  await reader.read();
  await reader.read();
  await reader.cancel();
  const timers = process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
  const pending = withHeartbeat(new ReadableStream<string>(), ":", 5).getReader();
  await pending.read();
  void pending.read();
  await new Promise((resolve) => setImmediate(resolve));
  expect(process.getActiveResourcesInfo().filter((name) => name === "Timeout").length).toBeGreaterThan(timers);
  await pending.cancel();
});
