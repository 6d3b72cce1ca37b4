// Grader of the audits: a finding counts by where it points, in any words.
import fs from "node:fs";
import path from "node:path";
import { ROOT } from "./tools.mjs";

export async function audit(ctx) {
  const name = ctx.evaluation.name;
  const key = JSON.parse(fs.readFileSync(path.join(ROOT, `evals/keys/${name}.json`), "utf8"));
  const findings = JSON.parse(fs.readFileSync(path.join(ctx.folder, key.report), "utf8"));
  if (!Array.isArray(findings)) throw new Error(`${key.report} is no list`);
  // Where the defects are in what the agent was given, whatever it did to its copy.
  const places = Object.entries(key.defects).flatMap(([id, anchors]) =>
    anchors.map((anchor) => {
      const [, file, text] = /^(\S+): ([^]*)$/.exec(anchor);
      const source = fs.readFileSync(path.join(ROOT, "evals/files", name, file), "utf8");
      const at = source.indexOf(text);
      if (at < 0 || source.indexOf(text, at + 1) >= 0)
        throw new Error(`the key's ${JSON.stringify(text)} is not once in ${file}`);
      return { id, file, line: source.slice(0, at).split("\n").length };
    }),
  );
  // The nearest pairs first; a finding counts for one defect, and one defect may be found several times.
  const pairs = findings.flatMap((finding, index) => {
    const file = String(finding?.file ?? "")
      .replaceAll("\\", "/")
      .replace(/^(\.\/)+/, "");
    const near = places.filter((place) => file.endsWith(place.file) || place.file.endsWith(`/${file}`));
    return near
      .map((place) => ({ index, id: place.id, far: Math.abs(place.line - Number(finding.line)) }))
      .filter((pair) => pair.far <= key.within);
  });
  pairs.sort((a, b) => a.far - b.far);
  const found = new Map();
  const used = new Map();
  for (const again of [false, true])
    for (const { index, id } of pairs) {
      if (used.has(index) || (found.has(id) && !again)) continue;
      used.set(index, id);
      if (!found.has(id)) found.set(id, findings[index]);
    }
  for (const id of Object.keys(key.defects)) {
    const finding = found.get(id);
    ctx.record(
      id,
      finding !== undefined,
      finding ? `line ${finding.line}: ${finding.problem}` : "no finding points there",
    );
  }
  const wrong = findings.filter((_, index) => !used.has(index));
  const said = wrong.map((finding) => `line ${finding?.line}: ${finding?.problem}`).join("; ");
  ctx.cost.findings = findings.length;
  ctx.cost.false_alarms = wrong.length;
  ctx.record(
    "audit-false-alarms",
    wrong.length <= key.false_alarms,
    `${wrong.length} of ${findings.length} findings point elsewhere${said && `: ${said}`}`,
  );
}
