// Grader of the nginx task: the real nginx, between a service of which the grader decides each byte, and its clients.
import { spawnSync } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { Events, eventually, freePort, request, Service, Socket, sleep, tail } from "./tools.mjs";

const ENV = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
/** A minute of the configuration is a second of the test. */
const SCALE = 60;

/** Divides the proxy's timeouts, the default of 60 s included, and puts the test's addresses in. */
function rewrite(text, listen, upstream) {
  const bare = text.replace(/#[^\n]*/g, "");
  const ms = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
  const scaled = bare.replace(
    /\b(proxy_read_timeout|proxy_send_timeout|send_timeout)\s+([^;]+);/g,
    (_, name, value) => {
      let total = 0;
      for (const [, n, unit] of value.matchAll(/(\d+)(ms|s|m|h|d)?/g)) total += Number(n) * ms[unit ?? "s"];
      return `${name} ${Math.max(1, Math.round(total / SCALE))}ms;`;
    },
  );
  const moved = scaled
    .replaceAll(/(listen\s+)(?:[\w.*[\]:]+:)?8080\b/g, `$1127.0.0.1:${listen}`)
    .replaceAll(/\b(127\.0\.0\.1|localhost):3000\b/g, `127.0.0.1:${upstream}`);
  let depth = 0;
  const top = new Set();
  for (const [token] of bare.matchAll(/[{}]|\b(?:proxy_read_timeout|proxy_send_timeout|send_timeout)\b/g)) {
    if (token === "{") depth++;
    else if (token === "}") depth--;
    else if (depth === 1) top.add(token);
  }
  const defaults = ["proxy_read_timeout", "proxy_send_timeout"]
    .filter((name) => !top.has(name))
    .map((name) => `${name} 1000ms;`);
  return moved.replace(/\bhttp\s*\{/, `http { ${defaults.join(" ")}`);
}

/** The service behind: streams wait for the grader. */
async function service(port) {
  const state = { streams: new Map(), hosts: [] };
  const server = http.createServer((req, response) => {
    const kind = req.url.split("?")[0];
    state.hosts.push(req.headers.host);
    if (kind === "/api/report")
      return void response
        .writeHead(200, { "content-type": "application/json" })
        .end(JSON.stringify({ rows: Array(2_000).fill("the same row") }));
    req.resume();
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
    response.write("data: hello\n\n");
    const stream = { response, open: true };
    response.on("close", () => (stream.open = false));
    state.streams.set(req.url, stream);
  });
  server.on("upgrade", (req, socket) => {
    const accept = crypto
      .createHash("sha1")
      .update(`${req.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
      .digest("base64");
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    // Echoes short text frames: the grader's mask is all zeros.
    socket.on(
      "data",
      (data) =>
        (data[0] & 15) === 1 && socket.write(Buffer.concat([Buffer.from([129, data[1] & 127]), data.subarray(6)])),
    );
    socket.on("error", () => {});
  });
  server.listen(port, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  state.close = () => {
    server.closeAllConnections();
    server.close();
  };
  return state;
}

export async function front(ctx) {
  const [listen, upstream] = [await freePort(), await freePort()];
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "eval-nginx-"));
  const app = await service(upstream);
  try {
    const text = fs.readFileSync(path.join(ctx.folder, "nginx.conf"), "utf8");
    fs.chmodSync(folder, 0o777);
    fs.writeFileSync(path.join(folder, "nginx.conf"), rewrite(text, listen, upstream));
    const test = spawnSync("nginx", ["-t", "-p", folder, "-c", "nginx.conf"], {
      cwd: folder,
      encoding: "utf8",
      env: ENV,
    });
    if (test.error) throw new Error("nginx is not installed");
    if (test.status !== 0) throw new Error(`nginx -t: ${tail(test.stderr)}`);
    const nginx = new Service("nginx", ["-p", folder, "-c", "nginx.conf"], { cwd: folder, env: ENV });
    ctx.services.push(nginx);
    await nginx.listening(listen);
    await checks(ctx, listen, app);
    await nginx.terminate(3_000);
  } finally {
    app.close();
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

async function checks(ctx, port, app) {
  let count = 0;
  const open = async (target, options = {}) => {
    const url = `${target}?n=${++count}`;
    const client = Events.open(port, url, options);
    client.catch(() => {});
    const stream = await eventually(5_000, `${target} does not reach the service`, () => app.streams.get(url));
    return {
      client: await client.catch((error) =>
        Promise.reject(new Error(`${target}: ${error.message}, although the service has sent it and an event`)),
      ),
      stream,
    };
  };
  const lockstep = async (target, options) => {
    const { client, stream } = await open(target, options);
    try {
      for (const n of ["hello", "1", "2", "3"]) {
        if (n !== "hello") stream.response.write(`data: ${n}\n\n`);
        const event = await client.next(2_000).catch(() => null);
        if (event?.data !== n)
          throw new Error(
            `${target} with ${JSON.stringify(options.headers ?? {})}: the event ${n} is held back${client.headers["content-encoding"] ? ` (${client.headers["content-encoding"]})` : ""}`,
          );
      }
    } finally {
      client.close();
    }
  };
  await ctx.check("prod-proxy-unbuffered", async () => {
    await lockstep("/events", {});
    await lockstep("/events", { headers: { "accept-encoding": "gzip, deflate, br" } });
    return "each event passes at once, also for clients that accept gzip";
  });
  await ctx.check("prod-proxy-unbuffered-post", async () => {
    await lockstep("/chat", { method: "POST", body: { prompt: "hi" }, headers: { "accept-encoding": "gzip" } });
    return "each token of a POST passes at once";
  });
  await ctx.check("prod-proxy-idle", async () => {
    const both = [await open("/events"), await open("/chat", { method: "POST", body: {} })];
    await sleep(2_200); // 132 s
    for (const { client, stream } of both) {
      stream.response.write("data: after\n\n");
      await client.next();
      const event = await client.next(2_000).catch(() => null);
      client.close();
      if (event?.data !== "after") throw new Error("a stream that was quiet for 132 s is cut");
    }
    return "streams live through 132 s of silence";
  });
  await ctx.check("prod-proxy-eof", async () => {
    const url = `/events?n=${++count}`;
    const opening = Events.open(port, url);
    opening.catch(() => {});
    const stream = await eventually(5_000, "/events does not reach the service", () => app.streams.get(url));
    await sleep(200);
    stream.response.socket.destroy();
    const client = await opening;
    await Promise.race([client.ended, sleep(3_000)]);
    client.close();
    if (client.end !== "cut")
      throw new Error(
        `the service dies in mid-stream, and the client sees ${client.end === "clean" ? "a complete response" : "nothing"}`,
      );
    return "the death of the service is a cut response";
  });
  await ctx.check("prod-proxy-disconnect", async () => {
    const { client, stream } = await open("/events");
    await client.next().catch(() => {});
    client.close();
    await eventually(
      3_000,
      "the service does not learn that the client of a quiet stream has left",
      () => !stream.open,
    );
    return "the service learns at once that a client has left";
  });
  await ctx.check("prod-proxy-websocket", async () => {
    const socket = await Socket.open(port, "/ws");
    if (socket.status !== 101) throw new Error(`the handshake is answered with ${socket.status ?? socket.error}`);
    socket.send("one");
    await socket.next(2_000);
    await sleep(1_400); // 84 s, the service pings every 75 s
    if (socket.gone) throw new Error("a socket that was quiet for 84 s is cut");
    socket.send("two");
    const two = await socket.next(2_000);
    socket.close();
    if (two !== "two") throw new Error("no echo");
    return "101, echo, and alive after 84 s of silence";
  });
  await ctx.check("prod-proxy-host", async () => {
    app.hosts.length = 0;
    await request(port, "GET", "/api/report", { headers: { host: "app.example:8443" } });
    if (app.hosts[0] !== "app.example:8443" && app.hosts[0] !== "app.example")
      throw new Error(`the service sees the Host ${app.hosts[0]} instead of app.example`);
    return `Host ${app.hosts[0]}`;
  });
  await ctx.check("prod-proxy-api-gzip", async () => {
    const { headers } = await request(port, "GET", "/api/report", { headers: { "accept-encoding": "gzip" } });
    if (headers["content-encoding"] !== "gzip") throw new Error("the JSON of /api is no longer compressed");
    return "the JSON of /api is compressed";
  });
}
