// `snippets/examples/test_server.rs`: the Rust patterns on a loopback port.
import { spawn, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const workspace = fileURLToPath(new URL("../../../..", import.meta.url));

/** Builds and starts it; it ends when its standard input closes. */
export async function startRust(): Promise<{ url: string; stop: () => void }> {
  let binary = process.env["STREAM_TEST_SERVER"];
  if (binary === undefined) {
    const build = spawnSync(
      process.env["CARGO"] ?? "cargo",
      ["build", "--quiet", "-p", "snippets", "--example", "test_server", "--message-format=json"],
      { cwd: workspace, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] },
    );
    if (build.status !== 0) throw new Error("cargo build --example test_server failed");
    binary =
      build.stdout
        .split("\n")
        .filter((line) => line.startsWith("{"))
        .map((line) => JSON.parse(line) as { executable?: string | null; target?: { name: string } })
        .find((message) => message.executable != null && message.target?.name === "test_server")?.executable ??
      undefined;
    if (binary === undefined) throw new Error("cargo named no test_server executable");
  }
  const child = spawn(binary, { stdio: ["pipe", "pipe", "inherit"] });
  const url = await new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`test_server ended with ${code}`)));
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      const match = /http:\/\/\S+/.exec(text);
      if (match !== null) resolve(match[0]);
    });
  });
  return { url, stop: () => void child.stdin.end() };
}
