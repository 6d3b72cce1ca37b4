// Debian's nginx, with a configuration in which 127.0.0.1:3000 is the upstream and 127.0.0.1:8080 the proxy.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { freePort } from "../../../../tools/testkit.mjs";

/** The file that the chapter production/proxies shows. */
export const OF_THE_BOOK = readFileSync(
  new URL("../../../../book/src/production/proxies/nginx.conf", import.meta.url),
  "utf8",
);

/** What people write. */
export const BARE = `
  events {}
  http { server { listen 127.0.0.1:8080; location / { proxy_pass http://127.0.0.1:3000; } } }
`;

/** Starts it until the test ends; gives its origin. */
export async function startNginx(config: string, upstream: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "nginx-"));
  const address = `127.0.0.1:${await freePort()}`;
  const temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${folder}/${name};`)
    .join(" ");
  const text = config
    .replaceAll("127.0.0.1:3000", new URL(upstream).host)
    .replaceAll("127.0.0.1:8080", address)
    .replace("http {", `http { access_log off; ${temp}`);
  writeFileSync(join(folder, "nginx.conf"), text);
  const main = `daemon off; master_process off; pid ${folder}/pid; error_log stderr info;`;
  const child = spawn("/usr/sbin/nginx", ["-p", folder, "-c", join(folder, "nginx.conf"), "-g", main], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => void (said += text));
  const ended = once(child, "exit");
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  });
  for (;;) {
    if (child.exitCode !== null) throw new Error(`nginx ended\n${said}`);
    const socket = connect(Number(address.split(":")[1]), "127.0.0.1");
    const open = await new Promise<boolean>(
      (resolve) => void socket.once("connect", () => resolve(true)).once("error", () => resolve(false)),
    );
    socket.destroy();
    if (open) return `http://${address}`;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
