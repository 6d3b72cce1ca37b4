// Wrong: `socket.onclose = () => setTimeout(connect, 1000)` with a close() that only closes the socket
// Harm: its own close event opens a new connection: the component is gone, its connections remain, and each visit adds one
// Instead: websocket/browser
// Probe: cannot see: a client
import { expect, onTestFinished, test } from "vitest";
import { WebSocketClient } from "../../src/websocket/client.ts";
import { eventually } from "../support/server.ts";
import { serveSockets } from "../support/websocket.ts";

class Wrong {
  socket!: WebSocket;
  readonly url: string;
  constructor(url: string) {
    this.url = url;
    this.connect();
  }
  connect(): void {
    this.socket = new WebSocket(this.url);
    this.socket.onclose = () => setTimeout(() => this.connect(), 10);
  }
  close(): void {
    this.socket.close();
  }
}

test("a closed client comes back", async () => {
  const opened: string[] = [];
  const server = await serveSockets((_, __, request) => opened.push(request.url!));
  const wrong = new Wrong(`${server.ws}/wrong`);
  onTestFinished(() => {
    wrong.connect = () => undefined;
    wrong.close();
  });
  const right = new WebSocketClient({
    url: () => `${server.ws}/right`,
    onOpen: () => undefined,
    onMessage: () => undefined,
    minDelay: 1,
    maxDelay: 5,
  });
  await eventually(() => opened.length === 2);
  right.close();
  for (let times = 0; times < 3; times++) {
    const before = opened.length;
    await eventually(() => wrong.socket.readyState === WebSocket.OPEN);
    wrong.close();
    await eventually(() => opened.length > before);
  }
  expect(opened.filter((url) => url === "/right")).toHaveLength(1);
});
