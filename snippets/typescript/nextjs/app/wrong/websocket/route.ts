// Wrong: a server of its own in the scope of a module.
import { WebSocketServer } from "ws";

// The condition is for the tests' sake: without it `next build` would listen as well.
const port = Number(process.env["WRONG_WEBSOCKET_PORT"] ?? 0);
const server = port > 0 ? new WebSocketServer({ host: "127.0.0.1", port }) : undefined;
server?.on("connection", (socket) => socket.send(String(process.pid)));

export function GET(request: Request): Response {
  void request.headers;
  return Response.json({ listening: server?.address() ?? null });
}
