// What the tests in JavaScript and TypeScript share; the counterpart in Rust is testkit/.
import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";

/** Chromium, silent and without a sandbox, which containers rarely allow. */
export const browserArguments = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Where Chromium is. */
export function chromiumPath() {
  const folders = (process.env.PATH ?? "").split(":");
  const names = ["chromium", "chromium-browser", "google-chrome"];
  const found = [
    process.env.CHROMIUM,
    ...[...folders, "/usr/bin"].flatMap((folder) => names.map((name) => join(folder, name))),
  ].find((path) => path && existsSync(path));
  if (found === undefined) throw new Error("Chromium is missing: run ./check, or set CHROMIUM to its path");
  return found;
}

/**
 * A port for a program that cannot be given a socket. Each kind of test has a range of its own, below the one that the system
 * hands out itself: from 9,100 the graders, from 15,000 the tests in Rust, from 24,000 those in TypeScript.
 */
export async function freePort(first = 24_000, count = 8_000) {
  for (;;) {
    const port = first + Math.floor(Math.random() * count);
    const server = createServer().listen(port, "127.0.0.1");
    const free = await new Promise((resolve) => {
      server.once("listening", () => resolve(true)).once("error", () => resolve(false));
    });
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}
