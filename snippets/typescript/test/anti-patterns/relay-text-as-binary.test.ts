// Wrong: `socket.on("message", (data) => other.send(data))` in a Node `ws` server
// Harm: ws hands text over as a Buffer, and a Buffer is sent as a binary frame: the browser gets a Blob where it expects JSON, the sender gets its own message back
// Instead: websocket/node
// Probe: cannot see: whether text or bytes are due, the probe does not know
import { expect, test } from "vitest";
import { openPage } from "../support/browser.ts";
import { serveSockets } from "../support/websocket.ts";

test("relayed text arrives as a Blob, unless the server keeps the kind of frame", async () => {
  const server = await serveSockets((socket, _, request) => {
    socket.on("message", (data, isBinary) => {
      if (request.url === "/wrong") socket.send(data as Buffer);
      else socket.send(data as Buffer, { binary: isBinary });
    });
  });
  const page = await openPage(server.origin);
  const kinds = await page.evaluate(async (url) => {
    const kinds: string[] = [];
    for (const path of ["/wrong", "/right"]) {
      const socket = new WebSocket(url + path);
      await new Promise((resolve) => (socket.onopen = resolve));
      socket.send('{"type":"chat"}');
      kinds.push(
        await new Promise((resolve) => (socket.onmessage = ({ data }) => resolve((data as object).constructor.name))),
      );
      socket.close();
    }
    return kinds;
  }, server.ws);
  expect(kinds).toEqual(["Blob", "String"]);
});
