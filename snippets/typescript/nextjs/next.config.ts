// ANCHOR: config
import type { NextConfig } from "next";

// Read by `next build`: rewrites are fixed in its output, and an environment variable at start changes nothing.
const BACKEND = process.env["BACKEND_URL"] ?? "http://127.0.0.1:3000";

const config = {
  // Next gzips what a rewrite brings and flushes at the end only, unless the backend's response says
  // `Cache-Control: no-transform`. WebSockets pass too; a route handler cannot take them.
  rewrites: async () => [{ source: "/backend/:path*", destination: `${BACKEND}/:path*` }],
  // `next build` runs every GET that looks at nothing of its request, and keeps what ends at once: streams too.
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
