// A `ws` server on a test server's port.

import type { IncomingMessage } from "node:http";
import { type ServerOptions, type WebSocket as ServerSocket, WebSocketServer } from "ws";
import { serve, type TestServer } from "./server.ts";

export interface SocketServer extends TestServer {
  /** `ws://127.0.0.1:port` */
  ws: string;
  sockets: ServerSocket[];
}

export async function serveSockets(
  onSocket: (socket: ServerSocket, nth: number, request: IncomingMessage) => void,
  options: ServerOptions = {},
): Promise<SocketServer> {
  const server = await serve({});
  const sockets: ServerSocket[] = [];
  const wss = new WebSocketServer({ server: server.http, ...options });
  wss.on("connection", (socket, request) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    onSocket(socket, sockets.length, request);
  });
  return { ...server, ws: server.origin.replace("http", "ws"), sockets };
}
