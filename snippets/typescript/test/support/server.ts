// A Node server on a free loopback port, and what tests ask of it.
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { onTestFinished } from "vitest";

export type Handler = (request: IncomingMessage, response: ServerResponse, nth: number) => void | Promise<void>;

export interface TestServer {
  /** `http://127.0.0.1:port` */
  origin: string;
  http: Server;
  /** How often each path was asked for. */
  hits: Map<string, number>;
  requests: IncomingMessage[];
  close(): Promise<void>;
}

/** Serves `routes` by path (`/` is an empty page unless given) until the test ends. */
export async function serve(routes: Record<string, Handler>): Promise<TestServer> {
  const sockets = new Set<Socket>();
  const hits = new Map<string, number>();
  const requests: IncomingMessage[] = [];
  const http = createServer((request, response) => {
    const path = new URL(request.url ?? "/", "http://x").pathname;
    const nth = (hits.get(path) ?? 0) + 1;
    hits.set(path, nth);
    requests.push(request);
    const handler = routes[path];
    if (handler !== undefined) void handler(request, response, nth);
    else if (path === "/") {
      response.setHeader("content-type", "text/html; charset=utf-8");
      response.end('<!doctype html><link rel="icon" href="data:,"><title>test</title><body></body>');
    } else response.writeHead(404).end();
  });
  http.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
  });
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy();
    if (http.listening) await new Promise((resolve) => http.close(resolve));
  };
  onTestFinished(close);
  const { port } = http.address() as AddressInfo;
  return { origin: `http://127.0.0.1:${port}`, http, hits, requests, close };
}

/** Begins an event stream. */
export function sse(response: ServerResponse, text = ""): ServerResponse {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  response.flushHeaders();
  if (text !== "") response.write(text);
  return response;
}

/** Resolves when the peer has gone. */
export function gone(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    if (response.destroyed) resolve();
    else response.once("close", () => resolve());
  });
}

/** Polls until `condition` holds; the test's own timeout ends a wait that never succeeds. */
export async function eventually(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** A promise with its resolver. */
export function signal<T = void>(): { promise: Promise<T>; resolve: (value: T) => void } {
  const { promise, resolve } = Promise.withResolvers<T>();
  return { promise, resolve };
}
