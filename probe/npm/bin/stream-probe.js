#!/usr/bin/env node
// Runs the program of this platform, which npm has installed as an optional dependency.

const { spawn } = require("node:child_process");

const name = `@stream-probe/${process.platform}-${process.arch}`;
const file = process.platform === "win32" ? "stream-probe.exe" : "stream-probe";

function program() {
  try {
    return require.resolve(`${name}/${file}`);
  } catch {
    console.error(
      `stream-probe: ${name} is not installed: this platform has no package, or npm left optional dependencies out ` +
        "(--omit=optional, --no-optional). Install it with: cargo install stream-probe",
    );
    process.exit(2);
  }
}

const child = spawn(program(), process.argv.slice(2), { stdio: "inherit" });
// The terminal sends Ctrl-C to both: the program writes its reports and ends, then this ends with its code.
process.on("SIGINT", () => {});
process.on("SIGTERM", () => child.kill("SIGTERM"));
child.on("error", (error) => {
  console.error(`stream-probe: ${error.message}`);
  process.exit(2);
});
child.on("exit", (code, signal) => {
  if (signal) process.kill(process.pid, signal);
  else process.exit(code);
});
