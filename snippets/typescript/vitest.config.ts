import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.{ts,tsx}"],
    globalSetup: "test/support/global-setup.ts",
    // Turns a hang into a failure; nothing waits this long when all is well.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Two workers share one browser: more would only compete for its processes.
    maxWorkers: 2,
  },
});
