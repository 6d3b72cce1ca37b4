// What a program of scenarios shares: `node NAME-scenarios.mjs CHECK MODULE` runs one against the module.
import { pathToFileURL } from "node:url";

const [check, file] = process.argv.slice(2);
/** What nobody handled; a scenario may look, and `run` does. */
export const uncaught = [];
for (const event of ["uncaughtException", "unhandledRejection"])
  process.on(event, (error) => uncaught.push(`${event}: ${error?.message ?? error}`));

/** What is graded. */
export const solution = await import(pathToFileURL(file)).catch((error) => {
  // `uncaught` would keep it from anyone, and the program would end as if it had passed.
  console.log(`Error: ${file} cannot be imported: ${String(error).replaceAll("\n", "\\n")}`);
  process.exit(1);
});

export const assert = (condition, text) => {
  if (!condition) throw new Error(text);
};

/** Runs the scenario that was asked for. Exit 0 and a last line of evidence, or an error, which is one line too. */
export async function run(scenarios) {
  try {
    const evidence = await scenarios[check]();
    if (uncaught.length > 0) throw new Error(uncaught[0]);
    console.log(evidence);
    process.exit(0);
  } catch (error) {
    console.log(String(error).replaceAll("\n", "\\n"));
    process.exit(1);
  }
}
