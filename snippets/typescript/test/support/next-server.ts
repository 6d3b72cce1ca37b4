// `next start` of the application in `nextjs/`.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export interface NextServer {
  origin: string;
  /** What it has written, as a file. */
  log: string;
}

export const app = fileURLToPath(new URL("../../nextjs", import.meta.url));
export const bin = join(app, "node_modules/next/dist/bin/next");

/** `next start` on a free port, which writes its log into `folder`. */
export async function startNext(
  folder: string,
  env: NodeJS.ProcessEnv,
): Promise<{ server: NextServer; stop: () => Promise<void> }> {
  const log = join(folder, `${crypto.randomUUID()}.log`);
  const out = openSync(log, "w");
  // It ends with the tests, also when they are killed: its standard input closes then.
  const guard = "data:text/javascript,process.stdin.on('end',()=>process.exit(0)).resume()";
  const child = spawn(process.execPath, ["--import", guard, bin, "start", "-H", "127.0.0.1", "-p", "0"], {
    cwd: app,
    env,
    stdio: ["pipe", out, out],
  });
  closeSync(out);
  const ended = once(child, "exit");
  for (;;) {
    const text = readFileSync(log, "utf8");
    const origin = /http:\/\/127\.0\.0\.1:\d+/.exec(text)?.[0];
    if (origin !== undefined && text.includes("Ready"))
      return {
        server: { origin, log },
        stop: async () => {
          child.stdin!.end();
          await ended;
        },
      };
    if (child.exitCode !== null) throw new Error(`next start ended\n${text}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
