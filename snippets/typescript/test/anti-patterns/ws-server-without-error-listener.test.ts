// Wrong: a Node `ws` server whose sockets have no "error" listener, with the default maxPayload and no check of the Origin
// Harm: one malformed frame from anyone ends the process; a page of any site may connect; one message may have 100 MiB
// Instead: websocket/node
// Probe: fails broken_off
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { webSocketServer } from "../support/wrong.ts";

/** Sends one frame without a mask, which RFC 6455 section 5.1 forbids to clients; says how the process ended. */
async function attack(listener: string): Promise<number | "alive"> {
  const child = spawn(process.execPath, ["--input-type=module", "--eval", webSocketServer(listener)], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  onTestFinished(() => void child.stdin.end());
  const [port] = (await once(child.stdout, "data")) as [Buffer];
  const ended = once(child, "exit").then(([code]) => code as number);
  const upgrade = (): Socket => {
    const socket = connect(Number(port.toString()), "127.0.0.1");
    socket.on("error", () => undefined);
    socket.write(
      "GET / HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    );
    return socket;
  };
  const socket = upgrade();
  const [head] = (await once(socket, "data")) as [Buffer];
  expect(head.toString()).toContain("101 Switching Protocols"); // also for a foreign origin
  socket.write(Buffer.from([0x81, 0x01, 0x78]));
  await new Promise((resolve) => socket.once("close", resolve)); // with a reset, or without
  // Whoever is alive answers the next one.
  const next = upgrade();
  const answered = new Promise<"alive">((resolve) => next.once("data", () => resolve("alive")));
  return Promise.race([ended, answered]).finally(() => next.destroy());
}

test("an unmasked frame ends a server without an error listener", async () => {
  expect(await attack("")).toBe(1);
  expect(await attack('socket.on("error", () => socket.terminate());')).toBe("alive");
});
