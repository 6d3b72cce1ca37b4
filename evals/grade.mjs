#!/usr/bin/env node
// Grades what an agent has built: `node evals/grade.mjs TASK FOLDER [--json]`. See README.md.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { summarise } from "./lib/summary.mjs";
import { tasks } from "./lib/tasks.mjs";
import { ROOT, Service } from "./lib/tools.mjs";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const EVALS = JSON.parse(fs.readFileSync(path.join(HERE, "evals.json"), "utf8")).evals;
const USAGE = `usage: grade.mjs TASK FOLDER [--json] [--program FILE] [--no-cost]   grade one solution
       grade.mjs --summarise RESULTS [--out FILE]                     benchmark.json of many
       grade.mjs --list                                               the tasks`;

class Context {
  constructor(evaluation, folder, options) {
    Object.assign(this, { evaluation, folder, program: options.program, costs: options.costs, cost: {} });
    this.results = new Map(evaluation.assertions.map((text) => [text.split(":")[0], null]));
    this.services = [];
  }

  wants(id) {
    return this.results.has(id);
  }

  record(id, passed, evidence) {
    if (!this.results.has(id))
      throw new Error(`${this.evaluation.name}: the grader has a check ${id} that evals.json does not state`);
    this.results.set(id, { passed, evidence: String(evidence).slice(0, 600) });
  }

  /** Runs one check: what `run` returns is the evidence, what it throws the reason of the failure. */
  async check(id, run) {
    if (!this.wants(id)) return;
    try {
      this.record(id, true, await run());
    } catch (error) {
      this.record(id, false, error?.message ?? error);
    }
  }

  /** Checks whose verdicts come from one run of stream-probe. */
  async probed(ids, run) {
    let report = {};
    let problem = "the probe did not look";
    try {
      report = await run();
      // On a machine that is busy the probe may see too little: once more, before it counts.
      const unknown = Object.values(report).filter((check) => check.verdict === "could not tell");
      if (unknown.length > 1) report = await run();
    } catch (error) {
      problem = error.message;
    }
    for (const id of ids.filter((id) => this.wants(id))) {
      const { verdict, evidence } = report[id] ?? { verdict: "failed", evidence: problem };
      this.record(id, verdict === "passed", verdict === "could not tell" ? `could not tell: ${evidence}` : evidence);
    }
  }

  /** Compiles, where the task is Rust; throws with the compiler's first error. */
  build() {
    if (this.evaluation.language !== "rust" || this.program) return;
    if (!fs.existsSync(path.join(this.folder, "Cargo.toml"))) throw new Error(`no Cargo.toml in ${this.folder}`);
    const target =
      process.env.CARGO_TARGET_DIR ??
      (fs.existsSync(path.join(this.folder, ".cargo")) ? undefined : path.join(ROOT, "target/evals"));
    const env = { ...process.env, ...(target ? { CARGO_TARGET_DIR: target } : {}), CARGO_TERM_COLOR: "never" };
    const args = [
      "build",
      "--message-format=json-render-diagnostics",
      ...(process.env.CARGO_NET_OFFLINE ? ["--offline"] : []),
    ];
    const built = spawnSync("cargo", args, {
      cwd: this.folder,
      env,
      encoding: "utf8",
      maxBuffer: 1 << 28,
      timeout: 1_200_000,
    });
    if (built.status !== 0) {
      const at = built.stderr.search(/^error/m);
      throw new Error(`does not compile: ${built.stderr.slice(Math.max(at, 0)).split("\n").slice(0, 8).join("\n")}`);
    }
    const artifacts = built.stdout
      .split("\n")
      .filter((line) => line.includes('"executable":"'))
      .map((line) => JSON.parse(line));
    const program = artifacts.find((artifact) => artifact.target?.kind?.includes("bin"))?.executable;
    if (!program) throw new Error("the package has no program");
    // A folder of its own: a shared target folder is written over by the next build.
    this.own = fs.mkdtempSync(path.join(os.tmpdir(), "eval-"));
    this.program = path.join(this.own, "service");
    fs.copyFileSync(program, this.program);
    fs.chmodSync(this.program, 0o755);
  }

  /** Starts the service of the solution and waits until it listens. */
  async start(port, env = {}, entry = "server.ts") {
    const all = { PATH: process.env.PATH, HOME: process.env.HOME, PORT: String(port), NODE_NO_WARNINGS: "1", ...env };
    const rust = this.evaluation.language === "rust";
    const service = new Service(rust ? this.program : process.execPath, rust ? [] : [entry], {
      cwd: this.folder,
      env: all,
    });
    this.services.push(service);
    return service.listening(port);
  }

  async finish() {
    for (const service of this.services) await service.kill();
    if (this.own) fs.rmSync(this.own, { recursive: true, force: true });
  }
}

async function grade(name, folder, options) {
  const evaluation = EVALS.find((evaluation) => evaluation.name === name);
  if (!evaluation)
    throw new Error(`no task ${name}; there are ${EVALS.map((evaluation) => evaluation.name).join(", ")}`);
  const context = new Context(evaluation, path.resolve(folder), options);
  const started = Date.now();
  let problem = "not reached";
  const deadline = setTimeout(
    () => {
      console.error("error: the grader itself took more than 5 minutes");
      process.exit(3);
    },
    300_000 + (options.program ? 0 : 1_200_000),
  );
  try {
    context.build();
    await tasks[name](context);
  } catch (error) {
    problem = error.message;
  }
  await context.finish();
  clearTimeout(deadline);
  const assertion_results = evaluation.assertions.map((text) => {
    const { passed, evidence } = context.results.get(text.split(":")[0]) ?? { passed: false, evidence: problem };
    return { text, passed, evidence };
  });
  const passed = assertion_results.filter((result) => result.passed).length;
  const total = assertion_results.length;
  const summary = { passed, failed: total - passed, total, pass_rate: Math.round((passed / total) * 1000) / 1000 };
  return {
    eval_id: evaluation.id,
    eval_name: name,
    assertion_results,
    summary,
    cost: context.cost,
    grading_seconds: Math.round((Date.now() - started) / 100) / 10,
  };
}

const args = process.argv.slice(2);
const option = (name) => {
  const at = args.indexOf(name);
  return at < 0 ? undefined : args.splice(at, 2)[1];
};
const flag = (name) => {
  const at = args.indexOf(name);
  return at >= 0 && args.splice(at, 1).length > 0;
};
const json = flag("--json");
const costs = !flag("--no-cost");
const program = option("--program");
const results = option("--summarise");
const out = option("--out") ?? path.join(HERE, "benchmark.json");
try {
  if (flag("--list")) {
    for (const { name, topic, kind, language, assertions } of EVALS)
      console.log(
        `${name.padEnd(16)} ${topic.padEnd(11)} ${kind.padEnd(6)} ${language.padEnd(11)} ${assertions.length} checks`,
      );
  } else if (results !== undefined) {
    fs.writeFileSync(out, `${JSON.stringify(summarise(results, EVALS))}\n`);
    console.log(out);
  } else if (args.length === 2) {
    const [task, folder] = args;
    const grading = await grade(task, folder, { program: program && path.resolve(program), costs });
    if (json) console.log(JSON.stringify(grading, null, 2));
    else {
      for (const { text, passed, evidence } of grading.assertion_results)
        console.log(`${passed ? "pass" : "FAIL"}  ${text}\n      ${evidence.replaceAll("\n", "\n      ")}`);
      console.log(
        `${grading.summary.passed} of ${grading.summary.total} passed in ${grading.grading_seconds} s`,
        grading.cost,
      );
    }
    process.exitCode = grading.summary.failed === 0 ? 0 : 1;
  } else {
    console.error(USAGE);
    process.exitCode = 2;
  }
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 2;
}
// A client of a grader may still be open; everything has been said.
process.exit();
