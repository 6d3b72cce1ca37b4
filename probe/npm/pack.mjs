// Packs for npm: `node pack.mjs OUT` the wrapper, `node pack.mjs OUT PLATFORM BINARY` the program of one platform.
import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

// As Node names them; the Linux programs are linked statically, so they run with glibc and with musl.
const PLATFORMS = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "win32-x64"];

const here = path.dirname(fileURLToPath(import.meta.url));
const crate = path.dirname(here);
const [out, platform, binary] = process.argv.slice(2);
if (!out || (platform && (!PLATFORMS.includes(platform) || !binary))) {
  console.error(`usage: node pack.mjs OUT [PLATFORM BINARY]; PLATFORM is one of ${PLATFORMS.join(", ")}`);
  process.exit(2);
}

const version = /^version = "(.+)"$/m.exec(readFileSync(path.join(crate, "..", "Cargo.toml"), "utf8"))[1];
const wrapper = JSON.parse(readFileSync(path.join(here, "package.json"), "utf8"));

mkdirSync(out, { recursive: true });
const folder = mkdtempSync(path.join(tmpdir(), "stream-probe-npm-"));
try {
  copyFileSync(path.join(crate, "LICENSE"), path.join(folder, "LICENSE"));
  const manifest = platform ? programPackage() : wrapperPackage();
  writeFileSync(path.join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
  const npm = process.platform === "win32" ? "npm.cmd" : "npm";
  const shell = process.platform === "win32";
  const args = ["pack", "--silent", "--pack-destination", path.resolve(out)];
  process.stdout.write(execFileSync(npm, args, { cwd: folder, shell }));
} finally {
  rmSync(folder, { recursive: true, force: true });
}

function wrapperPackage() {
  cpSync(path.join(here, "bin"), path.join(folder, "bin"), { recursive: true });
  copyFileSync(path.join(crate, "README.md"), path.join(folder, "README.md"));
  const optionalDependencies = Object.fromEntries(PLATFORMS.map((name) => [`@stream-probe/${name}`, version]));
  return { ...wrapper, version, optionalDependencies };
}

function programPackage() {
  const [os, cpu] = platform.split("-");
  const file = os === "win32" ? "stream-probe.exe" : "stream-probe";
  copyFileSync(binary, path.join(folder, file));
  chmodSync(path.join(folder, file), 0o755);
  const { description, license } = wrapper;
  return { name: `@stream-probe/${platform}`, version, description, license, os: [os], cpu: [cpu], files: [file] };
}
