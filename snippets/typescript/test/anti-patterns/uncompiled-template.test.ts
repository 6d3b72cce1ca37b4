// Wrong: example code that was never compiled: untyped parameters, `error.message` of a caught value, `response.body.getReader()`
// Harm: strict TypeScript refuses it; with a silenced compiler, it fails at run time when `body` is null or the thrown value is not an `Error`
// Instead: sse/browser
// Probe: cannot see: at build time
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

const TEMPLATE = `
export async function stream(url, onData) {
  const response = await fetch(url);
  const reader = response.body.getReader();
  try {
    onData(await reader.read());
  } catch (error) {
    onData({ error: error.message });
  }
  return fetchDataSource();
}
`;

test("the compiler names four mistakes", () => {
  const folder = mkdtempSync(join(root, "test/template-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const tsconfig = { extends: "../../tsconfig.json", include: ["*.ts"] };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(tsconfig));
  writeFileSync(join(folder, "template.ts"), TEMPLATE);
  const { stdout, status } = spawnSync(
    process.execPath,
    [join(root, "node_modules/typescript/bin/tsc"), "--noEmit", "-p", folder],
    { encoding: "utf8" },
  );
  expect(status).not.toBe(0);
  // Implicit any, possibly null, unknown, and a name that is nowhere.
  for (const code of ["TS7006", "TS18047", "TS18046", "TS2304"]) expect(stdout).toContain(code);
});
