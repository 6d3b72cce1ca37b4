// ANCHOR: models
/** The model that the client asked for, if it may have it; the first one when it asked for none. */
export function chooseModel(wanted: unknown): string | undefined {
  // At each request: what a module reads when it is loaded may be what `next build` had.
  const allowed = (process.env["MODELS"] ?? "gpt-5").split(",");
  return wanted === undefined ? allowed[0] : allowed.find((model) => model === wanted);
}

/** How long in ms a model may be silent; models that think send nothing for minutes. No limit on the complete answer. */
export const silenceMs = (): number => positive("MODEL_SILENCE_MS", 300_000);

/** Called at the start, so that a wrong value ends the server with its name, not each answer. */
export function checkEnvironment(): void {
  silenceMs();
  if ((process.env["MODELS"] ?? "gpt-5").split(",").some((model) => model.trim() === ""))
    throw new Error("MODELS: write names with commas between, such as gpt-5,gpt-5-mini");
}

function positive(name: string, otherwise: number): number {
  const value = process.env[name];
  const number = value === undefined ? otherwise : Number(value);
  // setTimeout treats NaN, and what is above 2^31 - 1, as 1 ms.
  if (!(number > 0 && number < 2 ** 31))
    throw new Error(`${name}: ${JSON.stringify(value)} is not a time in milliseconds`);
  return number;
}
// ANCHOR_END: models
