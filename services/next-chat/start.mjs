// Starts Next.js: `npm run dev`, or `npm start` after `npm run build`. Without OPENAI_API_KEY the scripted model is the provider.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const [command = "dev", ...more] = process.argv.slice(2);
const env = { ...process.env };
let model;

if (!env.OPENAI_API_KEY) {
  model = spawn(process.execPath, ["scripted-model.mjs"], { stdio: ["ignore", "pipe", "inherit"] });
  const said = createInterface({ input: model.stdout });
  const url = await new Promise((resolve) => said.once("line", resolve));
  said.on("line", (line) => console.log(`model: ${line}`)); // `left` in it: Stop has closed the connection
  Object.assign(env, { OPENAI_API_KEY: "none", OPENAI_BASE_URL: `${url}/v1` });
  env.MODELS ??= "scripted/slow,scripted/cut,scripted/rate-limit";
  console.log("no OPENAI_API_KEY: the scripted model answers");
}

const next = spawn(process.execPath, ["node_modules/next/dist/bin/next", command, "-H", "127.0.0.1", ...more], {
  env,
  stdio: "inherit",
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => next.kill(signal));
next.on("exit", (code) => {
  model?.kill();
  process.exitCode = code ?? 1;
});
