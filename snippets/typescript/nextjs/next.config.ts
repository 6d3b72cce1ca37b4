// ANCHOR: config
import type { NextConfig } from "next";

// Read by `next build`, whose output contains the rewrites: an environment variable at start changes nothing.
const BACKEND = process.env["BACKEND_URL"] ?? "http://127.0.0.1:3000";

const config = {
  // Next gzips the response of a rewrite and flushes it only at its end, unless the backend sends
  // `Cache-Control: no-transform`. WebSockets pass too; a route handler cannot accept them.
  rewrites: async () => [{ source: "/backend/:path*", destination: `${BACKEND}/:path*` }],
  // With this, `next build` runs every GET that reads nothing of its request, and stores a response that ends without waiting.
  cacheComponents: true,
  partialPrefetching: true,
} satisfies NextConfig;

// ANCHOR_END: config

// For the tests: a backend that does not say no-transform, another limit, and the patterns beside this folder.
import { fileURLToPath } from "node:url";

export default {
  ...config,
  rewrites: async () => [
    ...(await config.rewrites()),
    { source: "/wrong/backend/:path*", destination: `${process.env["PLAIN_URL"] ?? BACKEND}/:path*` },
  ],
  experimental: { proxyClientMaxBodySize: process.env["PROXY_BODY"] === "20mb" ? "20mb" : "10mb" },
  turbopack: { root: fileURLToPath(new URL("..", import.meta.url)) },
} satisfies NextConfig;
