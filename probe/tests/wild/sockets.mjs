// WebSockets with ws, and socket.io in plain WebSocket mode.
import { createServer } from "node:http";
import { Server } from "socket.io";
import { WebSocketServer } from "ws";

const [, , kind] = process.argv;
const server = createServer((_request, response) => response.writeHead(426).end("WebSocket only"));
server.listen(0, "127.0.0.1", () => console.log(`listening 127.0.0.1:${server.address().port}`));

if (kind === "ws") {
  const sockets = new WebSocketServer({ server });
  sockets.on("connection", (socket) => {
    socket.on("error", () => {});
    socket.on("message", (data, isBinary) => {
      for (const other of sockets.clients) other.send(data, { binary: isBinary });
    });
  });
} else if (kind === "ws-careful") {
  // The same library with its own means: origin, size, heartbeat.
  const sockets = new WebSocketServer({
    server,
    maxPayload: 64 * 1024,
    handleProtocols: (offered) => (offered.has("chat.v1") ? "chat.v1" : false),
    verifyClient: ({ origin, req }) => origin === "https://app.example" && req.headers.cookie === "sid=1",
  });
  sockets.on("connection", (socket) => {
    let alive = true;
    let budget = 1000;
    socket.on("error", () => {});
    socket.on("pong", () => {
      alive = true;
    });
    socket.on("message", (data, isBinary) => {
      if (isBinary) return socket.close(1003);
      if (--budget < 0) return socket.close(1008);
      socket.send(data, { binary: false });
    });
    const beat = setInterval(() => {
      if (!alive) return socket.terminate();
      alive = false;
      socket.ping();
    }, 2000);
    socket.on("close", () => clearInterval(beat));
  });
} else if (kind === "socket.io") {
  const io = new Server(server, { transports: ["websocket"] });
  io.on("connection", (socket) => socket.onAny((name, ...values) => socket.emit(name, ...values)));
}
