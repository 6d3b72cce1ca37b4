// Once for the tests of Next.js: one `next build` of the application in `nextjs/`, one `next start`, and behind it the Rust
// patterns with their scripted model, and a backend that knows nothing of `no-transform`.
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { freePort } from "../../../../tools/testkit.mjs";
import { app, bin, type NextServer, startNext } from "./next-server.ts";
import { startRust } from "./rust.ts";

declare module "vitest" {
  export interface ProvidedContext {
    nextjs: NextServer;
    /** The same application in a second process: `proxyClientMaxBodySize` is 20 MB, and a model may be silent for 300 ms. */
    second: NextServer;
    /** The Rust patterns behind the application. */
    backend: string;
    plain: string;
    websocketPort: number;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  if (!existsSync(bin)) throw new Error("run `npm ci` in snippets/typescript/nextjs first");
  const stops: (() => unknown)[] = [];
  const stop = async (): Promise<void> => {
    for (const each of stops.splice(0).reverse()) await each();
  };
  try {
    const folder = mkdtempSync(join(tmpdir(), "nextjs-"));
    stops.push(() => rmSync(folder, { recursive: true, force: true }));
    const rust = await startRust();
    stops.push(rust.stop);
    const plain = await startPlain();
    stops.push(plain.stop);
    const websocketPort = await freePort();
    const env = {
      ...process.env,
      NODE_ENV: "production" as const,
      NEXT_TELEMETRY_DISABLED: "1",
      BACKEND_URL: rust.url,
      PLAIN_URL: plain.url,
    };
    const built = spawnSync(process.execPath, [bin, "build"], { cwd: app, env, encoding: "utf8" });
    if (built.status !== 0) throw new Error(`next build failed\n${built.stdout}\n${built.stderr}`);
    const runtime = {
      ...env,
      OPENAI_BASE_URL: `${rust.url}/model/v1`,
      OPENAI_API_KEY: "sk-secret",
      MODELS: MODELS.map((name) => `scripted/${name}`).join(","),
      WRONG_WEBSOCKET_PORT: String(websocketPort),
    };
    const first = await startNext(folder, runtime);
    stops.push(first.stop);
    const second = await startNext(folder, {
      ...runtime,
      BACKEND_URL: "http://127.0.0.1:9",
      PROXY_BODY: "20mb",
      MODEL_SILENCE_MS: "300",
    });
    stops.push(second.stop);
    project.provide("nextjs", first.server);
    project.provide("second", second.server);
    project.provide("backend", rust.url);
    project.provide("plain", plain.url);
    project.provide("websocketPort", websocketPort);
  } catch (error) {
    await stop();
    throw error;
  }
  return stop;
}

const MODELS = [
  "plain",
  "bytes",
  "tools",
  "length",
  "refusal",
  "cut",
  "cut-inside",
  "abort",
  "stall",
  "hold-head",
  "error",
  "rate-limit",
  "overloaded",
];

/** Streams without `no-transform`: `POST /NAME/push` sends one event to whoever reads `/NAME/events`. */
async function startPlain(): Promise<{ url: string; stop: () => void }> {
  const feeds = new Map<string, { sent: number; readers: Set<ServerResponse> }>();
  const server = createServer((request, response) => {
    const [, name = "", what] = (request.url ?? "").split("/");
    const feed = feeds.get(name) ?? { sent: 0, readers: new Set<ServerResponse>() };
    feeds.set(name, feed);
    if (what === "push") {
      feed.sent += 1;
      for (const reader of feed.readers) reader.write(`data: {"n":${feed.sent}}\n\n`);
      response.end();
    } else if (what === "end") {
      for (const reader of feed.readers) reader.end();
      response.end();
    } else {
      feed.readers.add(response);
      response.on("close", () => feed.readers.delete(response));
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
      response.write(":\n\n");
    }
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const stop = (): void => {
    server.closeAllConnections();
    server.close();
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, stop };
}
