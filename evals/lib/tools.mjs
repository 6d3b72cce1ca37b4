// What the graders share: processes, clients, measurements. Everything is on loopback, and everything has a deadline.
import { spawn, spawnSync } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { freePort as portFrom } from "../../tools/testkit.mjs";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What a busy machine needs for what takes `ms` on an idle one: in proportion to its load, five times as long at most. */
const busy = (ms) => ms * Math.min(5, Math.max(1, os.loadavg()[0] / os.cpus().length));

/** Rejects after `ms`, later on a busy machine. */
export function within(ms, promise, what) {
  let timer;
  const late = new Promise(
    (_, reject) => (timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), busy(ms))),
  );
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Polls until `look` gives something true; throws after `ms`, later on a busy machine. */
export async function eventually(ms, what, look) {
  const end = Date.now() + busy(ms);
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await sleep(25);
  }
}

/** A free port below those that the kernel gives to outgoing connections. */
export const freePort = () => portFrom(9_100, 5_900);

// --- Programs -----------------------------------------------------------------

/** A program of the pack: built on demand, unless the environment names a folder that has it. */
export function tool(name, args) {
  const folder = process.env.EVALS_TOOLS ?? path.join(ROOT, "target/debug");
  const program = path.join(folder, name);
  if (fs.existsSync(program)) return program;
  const built = spawnSync("cargo", ["build", "-q", ...args], { cwd: ROOT, encoding: "utf8", timeout: 900_000 });
  if (built.status !== 0 || !fs.existsSync(program)) throw new Error(`cannot build ${name}: ${built.stderr}`);
  return program;
}

const running = new Set();

export class Service {
  constructor(command, args, options) {
    this.log = "";
    this.child = spawn(command, args, { ...options, stdio: ["ignore", "pipe", "pipe"] });
    running.add(this.child);
    for (const stream of [this.child.stdout, this.child.stderr])
      stream.on("data", (data) => (this.log = (this.log + data).slice(-20_000)));
    this.exited = new Promise((resolve) => {
      this.child.once("error", (error) => {
        this.log += String(error);
        resolve({ code: -1 });
      });
      this.child.once("exit", (code, signal) => {
        running.delete(this.child);
        this.gone = true;
        resolve({ code, signal });
      });
    });
  }

  get pid() {
    return this.child.pid;
  }

  async listening(port, ms = 20_000) {
    await eventually(ms, "the service does not listen on PORT", async () => {
      if (this.gone) throw new Error(`the service exited: ${tail(this.log)}`);
      return reachable(port);
    });
    this.port = port;
    return this;
  }

  /** SIGTERM, then SIGKILL after `ms`: how it ended and how long it took. */
  async terminate(ms = 5_000) {
    const start = Date.now();
    if (!this.gone) this.child.kill("SIGTERM");
    const late = sleep(ms).then(() => null);
    const end = await Promise.race([this.exited, late]);
    if (end === null) this.child.kill("SIGKILL");
    await this.exited;
    return { ...(end ?? {}), killed: end === null, took: Date.now() - start };
  }

  async kill() {
    if (!this.gone) this.child.kill("SIGKILL");
    await this.exited;
  }
}

process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));

export const tail = (text, lines = 4) => text.trim().split("\n").slice(-lines).join(" | ").slice(-400);

function reachable(port) {
  return new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** stream-probe as {id: {verdict, evidence}}; `only` are the checks to run. */
export async function probe(kind, url, only, args = [], budget = 30) {
  const program = tool("stream-probe", ["-p", "stream-probe"]);
  const all = [kind, url, "--json", "--budget", String(budget), "--only", only.join(","), ...args];
  const service = new Service(program, all, { env: { PATH: process.env.PATH } });
  let out = "";
  service.child.stdout.on("data", (data) => (out += data));
  const closed = new Promise((resolve) => service.child.once("close", resolve));
  await within((budget + 40) * 1000, closed, "stream-probe").catch(() => service.kill());
  try {
    return Object.fromEntries(JSON.parse(out).checks.map((check) => [check.id, check]));
  } catch {
    throw new Error(`stream-probe gave no report: ${tail(service.log)}`);
  }
}

// --- Measurements (Linux) -------------------------------------------------------

/** Proportional set size of a process in KiB. */
export function memory(pid) {
  try {
    return Number(/^Pss:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))[1]);
  } catch {
    return NaN;
  }
}

/** CPU time of a process in ms. */
export function cpu(pid) {
  try {
    const fields = fs
      .readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /, "")
      .split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10; // ticks of 1/100 s
  } catch {
    return NaN;
  }
}

/** KiB that each of `count` idle connections costs. */
export async function idleMemory(service, count, open) {
  const first = await Promise.all(Array.from({ length: 20 }, open)); // what is allocated once
  await sleep(200);
  const before = memory(service.pid);
  const more = await Promise.all(Array.from({ length: count }, open));
  await sleep(300);
  const each = (memory(service.pid) - before) / count;
  [...first, ...more].forEach((client) => client.close());
  return Math.round(each * 10) / 10;
}

// --- HTTP -----------------------------------------------------------------------

/** A whole exchange: {status, headers, text, cut}. */
export function request(port, method, target, { headers = {}, body, ms = 10_000 } = {}) {
  return new Promise((resolve, reject) => {
    const all = body === undefined ? headers : { "content-type": "application/json", ...headers };
    const req = http.request({ port, host: "127.0.0.1", method, path: target, headers: all, agent: false });
    const timer = setTimeout(() => req.destroy(new Error(`${method} ${target}: no answer within ${ms} ms`)), ms);
    req.once("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    req.once("response", (response) => {
      const parts = [];
      const end = (cut) => {
        clearTimeout(timer);
        const text = Buffer.concat(parts).toString();
        resolve({ status: response.statusCode, headers: response.headers, text, cut });
      };
      response.on("data", (data) => parts.push(data));
      response.once("end", () => end(!response.complete));
      response.once("error", () => end(true));
    });
    req.end(body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body));
  });
}

export const json = async (...args) => JSON.parse((await request(...args)).text);

/** Parses an event stream as HTML, section 9.2.6 says. */
export class Parser {
  constructor() {
    this.decoder = new TextDecoder();
    this.rest = "";
    this.reset();
    this.id = "";
  }

  reset() {
    this.data = [];
    this.type = "";
  }

  push(bytes) {
    const events = [];
    this.rest += this.decoder.decode(bytes, { stream: true });
    const lines = this.rest.split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.data.length > 0)
          events.push({ type: this.type || "message", data: this.data.join("\n"), id: this.id });
        this.reset();
        continue;
      }
      const [, field, value] = /^([^:]*):? ?([^]*)$/.exec(line);
      if (field === "data") this.data.push(value);
      else if (field === "event") this.type = value;
      else if (field === "id") this.id = value;
    }
    return events;
  }
}

/** An open event stream: `status` and `headers` are there at once, `next()` waits for an event, `end` tells how it ended. */
export class Events {
  static open(port, target, { method = "GET", headers = {}, body, ms = 10_000 } = {}) {
    return new Promise((resolve, reject) => {
      const all = {
        accept: "text/event-stream",
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      };
      const req = http.request({ port, host: "127.0.0.1", method, path: target, headers: all, agent: false });
      const timer = setTimeout(() => req.destroy(new Error(`${method} ${target}: no head within ${ms} ms`)), ms);
      req.once("error", (error) => {
        clearTimeout(timer);
        reject(error);
      });
      req.once("response", (response) => {
        clearTimeout(timer);
        resolve(new Events(req, response));
      });
      req.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  constructor(req, response) {
    Object.assign(this, { req, response, status: response.statusCode, headers: response.headers });
    this.all = [];
    this.raw = "";
    this.read = 0;
    const parser = new Parser();
    response.on("data", (data) => {
      this.raw += data;
      this.all.push(...parser.push(data));
      this.wake?.();
    });
    this.ended = new Promise((resolve) => {
      const end = (how) => {
        this.end ??= how;
        this.wake?.();
        resolve(this.end);
      };
      response.once("end", () => end(response.complete ? "clean" : "cut"));
      response.once("error", () => end("cut"));
      response.once("close", () => end(response.complete ? "clean" : "cut"));
    });
    req.on("error", () => {});
  }

  /** The next event that is not a heartbeat; `null` at the end. */
  async next(ms = 5_000) {
    const deadline = Date.now() + ms;
    for (;;) {
      while (this.read < this.all.length) {
        const event = this.all[this.read++];
        if (!/^(ping|heartbeat|keep-?alive|hb)$/i.test(event.type)) return event;
      }
      if (this.end) return null;
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`no event within ${ms} ms`);
      let timer;
      await new Promise((resolve) => {
        this.wake = resolve;
        timer = setTimeout(resolve, left);
      });
      clearTimeout(timer);
    }
  }

  async take(count, ms) {
    const events = [];
    while (events.length < count) {
      const event = await this.next(ms);
      if (event === null) break;
      events.push(event);
    }
    return events;
  }

  close() {
    this.req.destroy();
  }
}

// --- WebSocket --------------------------------------------------------------------

/** A client that can do what no library lets it: stay silent, stop reading, break the protocol. */
export class Socket {
  static async open(port, target, headers = {}) {
    const socket = net.connect(port, "127.0.0.1");
    socket.setNoDelay(true);
    const self = new Socket(socket);
    const key = crypto.randomBytes(16).toString("base64");
    const all = {
      host: `127.0.0.1:${port}`,
      upgrade: "websocket",
      connection: "Upgrade",
      "sec-websocket-key": key,
      "sec-websocket-version": "13",
      ...headers,
    };
    socket.write(
      `GET ${target} HTTP/1.1\r\n${Object.entries(all)
        .map(([k, v]) => `${k}: ${v}\r\n`)
        .join("")}\r\n`,
    );
    await eventually(5_000, "no answer to the handshake", () => self.status || self.gone);
    return self;
  }

  constructor(socket) {
    this.socket = socket;
    this.bytes = Buffer.alloc(0);
    this.frames = [];
    this.read = 0;
    this.pong = true;
    this.closed = new Promise((resolve) => (this.finish = resolve));
    socket.on("data", (data) => this.feed(data));
    socket.on("error", (error) => (this.error = error.code));
    socket.on("close", () => {
      this.gone = true;
      this.wake?.();
      this.finish();
    });
  }

  feed(data) {
    this.bytes = Buffer.concat([this.bytes, data]);
    if (!this.status) {
      const end = this.bytes.indexOf("\r\n\r\n");
      if (end < 0) return;
      this.status = Number(this.bytes.subarray(9, 12).toString());
      this.bytes = this.bytes.subarray(end + 4);
    }
    for (;;) {
      if (this.bytes.length < 2) break;
      let length = this.bytes[1] & 127;
      let head = 2;
      if (length === 126) {
        if (this.bytes.length < 4) break;
        length = this.bytes.readUInt16BE(2);
        head = 4;
      } else if (length === 127) {
        if (this.bytes.length < 10) break;
        length = Number(this.bytes.readBigUInt64BE(2));
        head = 10;
      }
      if (this.bytes.length < head + length) break;
      const opcode = this.bytes[0] & 15;
      const payload = Buffer.from(this.bytes.subarray(head, head + length));
      this.bytes = this.bytes.subarray(head + length);
      if (opcode === 9 && this.pong) this.send(payload, 10);
      else if (opcode === 8) this.code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
      else if (opcode < 3) this.frames.push(payload.toString());
    }
    this.wake?.();
  }

  /** One frame with a mask of zeros. */
  send(data, opcode = 1) {
    const payload = Buffer.from(data);
    const n = payload.length;
    const head =
      n < 126
        ? Buffer.from([128 | opcode, 128 | n])
        : n < 65536
          ? Buffer.from([128 | opcode, 254, n >> 8, n & 255])
          : Buffer.alloc(10);
    if (n >= 65536) {
      head[0] = 128 | opcode;
      head[1] = 255;
      head.writeBigUInt64BE(BigInt(n), 2);
    }
    this.socket.write(Buffer.concat([head, Buffer.alloc(4), payload]));
  }

  async next(ms = 5_000) {
    const deadline = Date.now() + ms;
    while (this.read === this.frames.length) {
      if (this.gone) return null;
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`no message within ${ms} ms`);
      let timer;
      await new Promise((resolve) => {
        this.wake = resolve;
        timer = setTimeout(resolve, left);
      });
      clearTimeout(timer);
    }
    return this.frames[this.read++];
  }

  close() {
    this.socket.destroy();
  }
}
