// What `next build` makes of a GET stream that looks at nothing of its request.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";

const app = fileURLToPath(new URL("../nextjs", import.meta.url));
/** Has the patterns too: the instrumentation of the application is built with each route. */
const root = fileURLToPath(new URL("..", import.meta.url));

const ROUTE = `export function GET() {
  return new Response(new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode("data: 1\\n\\n"));
      controller.close();
    },
  }));
}
`;

/** Builds an application of one route, below the one whose packages it uses. */
async function build(route: string, config: object): Promise<string> {
  const folder = mkdtempSync(join(app, ".next", "one-route-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, "app/ends"), { recursive: true });
  writeFileSync(join(folder, "app/ends/route.js"), route);
  writeFileSync(join(folder, "package.json"), '{"type":"module"}');
  writeFileSync(
    join(folder, "next.config.js"),
    `export default ${JSON.stringify({ ...config, turbopack: { root } })};`,
  );
  const child = spawn(process.execPath, [join(app, "node_modules/next/dist/bin/next"), "build"], {
    cwd: folder,
    env: { ...process.env, NODE_ENV: "production", NEXT_TELEMETRY_DISABLED: "1", NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  for (const pipe of [child.stdout, child.stderr])
    pipe.setEncoding("utf8").on("data", (text: string) => void (said += text));
  await once(child, "close");
  return said;
}

test("Next 16 runs it at each request by default", async () => {
  expect(await build(ROUTE, {})).toContain("ƒ /ends");
}, 180_000);

test("with cacheComponents the setting that older versions needed is a build error", async () => {
  const said = await build(`${ROUTE}export const dynamic = "force-dynamic";\n`, {
    cacheComponents: true,
    partialPrefetching: true,
  });
  expect(said).toContain('Route segment config "dynamic" is not compatible with `nextConfig.cacheComponents`');
}, 180_000);
