import { defineConfig } from "vitest/config";

const shared = {
  // Turns a hang into a failure; nothing waits this long when all is well.
  testTimeout: 240_000,
  hookTimeout: 240_000,
};
const nextjs = ["test/nextjs-*.test.ts", "test/anti-patterns/nextjs-*.test.ts"];

export default defineConfig({
  test: {
    globalSetup: "test/support/global-setup.ts",
    // Two workers share one browser: more would only compete for its processes.
    maxWorkers: 2,
    projects: [
      { test: { name: "patterns", include: ["test/**/*.test.{ts,tsx}"], exclude: nextjs, ...shared } },
      // Apart, so that a run of other tests does not build the application.
      { test: { name: "nextjs", include: nextjs, globalSetup: "test/support/nextjs-setup.ts", ...shared } },
    ],
  },
});
