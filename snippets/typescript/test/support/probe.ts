// The built `stream-probe`.
import { execFile, spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

const workspace = fileURLToPath(new URL("../../../..", import.meta.url));
const program = resolve(workspace, process.env["CARGO_TARGET_DIR"] ?? "target", "debug/stream-probe");

export function buildProbe(): void {
  // The whole workspace: the features of a package by itself are others, and would be built anew.
  const { status } = spawnSync(
    process.env["CARGO"] ?? "cargo",
    ["build", "--quiet", "--workspace", "--bin", "stream-probe"],
    { cwd: workspace, stdio: "ignore" },
  );
  if (status !== 0) throw new Error("cargo build --bin stream-probe failed");
}

export interface Found {
  passed: string[];
  failed: string[];
  unknown: string[];
}

/** The ids of a run, by verdict. */
export async function probe(...args: string[]): Promise<Found> {
  const report = await new Promise<string>(
    (done) => void execFile(program, [...args, "--json"], (_, stdout) => done(stdout)),
  );
  const { checks, broken_off } = JSON.parse(report) as {
    broken_off?: string;
    checks: { id: string; verdict: "passed" | "failed" | "could not tell" }[];
  };
  const of = (wanted: string): string[] => checks.filter(({ verdict }) => verdict === wanted).map(({ id }) => id);
  // A service that the run has ended: nothing after that was probed.
  const failed = broken_off ? [...of("failed"), "broken_off"] : of("failed");
  return { passed: of("passed"), failed, unknown: of("could not tell") };
}
