// Wrong: `socket.onmessage = async (event) => { const text = await event.data.text(); … }`
// Harm: nothing awaits the handler, so a small message overtakes a large one, and with a slow handler they pile up without a bound
// Instead: websocket/browser
// Probe: cannot see: a client
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { serveSockets } from "../support/websocket.ts";

declare const pattern: typeof import("../../src/websocket/client.ts");

test("messages overtake each other in an async handler", async () => {
  const server = await serveSockets((socket) => {
    for (let at = 0; at < 6; at++) socket.send(Buffer.alloc(at % 2 === 0 ? 4 * 1024 * 1024 : 1, at));
  });
  const page = await openPage(server.origin);
  await load(page, "websocket/client.ts");
  const orders = await page.evaluate(async (url) => {
    const wrong = await new Promise<number[]>((resolve) => {
      const order: number[] = [];
      const socket = new WebSocket(url);
      socket.onmessage = async (event: MessageEvent<Blob>) => {
        const bytes = new Uint8Array(await event.data.arrayBuffer());
        if (order.push(bytes[0]!) === 6) resolve(order);
      };
    });
    const right = await new Promise<number[]>((resolve) => {
      const order: number[] = [];
      const client = new pattern.WebSocketClient({
        url: () => url,
        onOpen: () => undefined,
        onMessage: async (data) => {
          const bytes = new Uint8Array(await new Blob([data]).arrayBuffer());
          if (order.push(bytes[0]!) < 6) return;
          client.close();
          resolve(order);
        },
      });
    });
    return { wrong, right };
  }, server.ws);
  expect(orders.wrong).not.toEqual([0, 1, 2, 3, 4, 5]);
  expect(orders.right).toEqual([0, 1, 2, 3, 4, 5]);
});
