// Wrong: `const ws = new WebSocket(url); ws.send(hello)`, and again at any later time without checking the state
// Harm: before the connection is open send() throws InvalidStateError; while it closes, it drops the data silently
// Instead: websocket/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { eventually } from "../support/server.ts";
import { serveSockets } from "../support/websocket.ts";

declare const pattern: typeof import("../../src/websocket/client.ts") & typeof import("../../src/websocket/outbox.ts");

test("what is sent too early throws, what is sent too late is lost, and an outbox delivers both", async () => {
  const received: string[] = [];
  const server = await serveSockets((socket, nth, request) => {
    socket.on("message", (data) => {
      const text = data.toString();
      if (request.url === "/right" && nth % 2 === 0) return socket.close(1012); // taken, and not carried out
      received.push(`${request.url} ${text.startsWith("{") ? (JSON.parse(text) as { body: string }).body : text}`);
      if (request.url === "/right") socket.send((JSON.parse(text) as { id: string }).id);
    });
  });
  const page = await openPage(server.origin);
  await load(page, "websocket/client.ts", "websocket/outbox.ts");
  const error = await page.evaluate(async (url) => {
    const socket = new WebSocket(`${url}/wrong`);
    let error = "";
    try {
      socket.send("early");
    } catch (thrown) {
      error = (thrown as DOMException).name;
    }
    await new Promise((resolve) => (socket.onopen = resolve));
    socket.close();
    socket.send("late"); // no error
    await new Promise((resolve) => (socket.onclose = resolve));

    const outbox = new pattern.Outbox<string>((command) => client.send(JSON.stringify(command)));
    const client = new pattern.WebSocketClient({
      url: () => `${url}/right`,
      onOpen: () => outbox.resend(),
      onMessage: (id) => outbox.acknowledge(id as string, undefined),
      minDelay: 1,
      maxDelay: 5,
    });
    await Promise.all([outbox.send("early"), outbox.send("late")]);
    client.close();
    return error;
  }, server.ws);
  expect(error).toBe("InvalidStateError");
  await eventually(() => received.length === 2);
  expect(received).toEqual(["/right early", "/right late"]);
});
