import type { NextConfig } from "next";

export default {
  // Without it `next build` runs a GET that reads nothing of its request, and keeps a stream as a file.
  cacheComponents: true,
  partialPrefetching: true,
  turbopack: { root: import.meta.dirname },
} satisfies NextConfig;
