// benchmark.json of the runs below a folder: RESULTS/<task>/<configuration>/<run>/{grading.json, timing.json}.
import fs from "node:fs";
import path from "node:path";

const CONFIGURATIONS = ["with_skill", "without_skill"];
const round = (value) => Math.round(value * 1000) / 1000;

export function statistics(values) {
  const known = values.filter((value) => typeof value === "number" && Number.isFinite(value));
  if (known.length === 0) return null;
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const variance =
    known.length < 2 ? 0 : known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (known.length - 1);
  return { mean: round(mean), stddev: round(Math.sqrt(variance)), min: Math.min(...known), max: Math.max(...known) };
}

const folders = (folder) =>
  fs.existsSync(folder)
    ? fs
        .readdirSync(folder, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => entry.name)
        .sort()
    : [];
const read = (file) => JSON.parse(fs.readFileSync(file, "utf8"));

/** Statistics of each measure over runs: what is graded, what the agent took, what was built costs. */
function measures(runs) {
  const names = new Set(runs.flatMap((run) => Object.keys(run.result)));
  const all = {};
  for (const name of names) {
    const found = statistics(runs.map((run) => run.result[name]));
    if (found) all[name] = found;
  }
  return all;
}

function delta(of) {
  const [a, b] = CONFIGURATIONS.map((name) => of[name] ?? {});
  const both = Object.keys(a).filter((name) => name in b);
  return Object.fromEntries(both.map((name) => [name, round(a[name].mean - b[name].mean)]));
}

export function summarise(results, evals) {
  const runs = [];
  let metadata = {};
  const described = path.join(results, "metadata.json");
  if (fs.existsSync(described)) metadata = read(described);
  for (const task of folders(results))
    for (const configuration of folders(path.join(results, task)).filter((name) => CONFIGURATIONS.includes(name)))
      folders(path.join(results, task, configuration)).forEach((name, index) => {
        const folder = path.join(results, task, configuration, name);
        const grading = read(path.join(folder, "grading.json"));
        const timing = fs.existsSync(path.join(folder, "timing.json")) ? read(path.join(folder, "timing.json")) : {};
        const evaluation = evals.find((evaluation) => evaluation.name === task);
        if (!evaluation || grading.eval_name !== task)
          throw new Error(`${folder} is not a run of a task that evals.json has`);
        const { passed, failed, total, pass_rate } = grading.summary;
        const seconds =
          timing.total_duration_seconds ?? (timing.duration_ms === undefined ? undefined : timing.duration_ms / 1000);
        runs.push({
          eval_id: evaluation.id,
          eval_name: task,
          configuration,
          run_number: index + 1,
          result: {
            pass_rate,
            passed,
            failed,
            total,
            time_seconds: seconds,
            tokens: timing.total_tokens,
            tool_calls: timing.tool_calls,
            ...grading.cost,
          },
          failed: grading.assertion_results
            .filter((result) => !result.passed)
            .map((result) => result.text.split(":")[0]),
        });
      });
  if (runs.length === 0) throw new Error(`no runs below ${results}`);
  const of = (wanted) => {
    const summary = {};
    for (const configuration of CONFIGURATIONS) {
      const some = runs.filter((run) => run.configuration === configuration && wanted(run));
      if (some.length > 0) summary[configuration] = measures(some);
    }
    return { ...summary, delta: delta(summary) };
  };
  const names = [...new Set(runs.map((run) => run.eval_name))];
  // Over all tasks only what every task has: KiB of a chat and of a feed are no mean of anything.
  const common = new Set(["pass_rate", "time_seconds", "tokens", "tool_calls"]);
  const overall = of(() => true);
  for (const part of Object.values(overall))
    for (const name of Object.keys(part)) if (!common.has(name)) delete part[name];
  return {
    metadata: {
      skill_name: "streaming-api-patterns",
      ...metadata,
      evals_run: names,
      runs_per_configuration: Math.max(
        ...names.flatMap((name) =>
          CONFIGURATIONS.map((c) => runs.filter((run) => run.eval_name === name && run.configuration === c).length),
        ),
      ),
    },
    run_summary: overall,
    tasks: Object.fromEntries(names.map((name) => [name, of((run) => run.eval_name === name)])),
    runs,
  };
}
