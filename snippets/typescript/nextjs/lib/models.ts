// ANCHOR: models
/** The model that the client asked for, if it may have it; the first one when it asked for none. */
export function chooseModel(wanted: unknown): string | undefined {
  // At each request: what a module reads when it is loaded may be what `next build` had.
  const allowed = (process.env["MODELS"] ?? "gpt-5").split(",");
  return wanted === undefined ? allowed[0] : allowed.find((model) => model === wanted);
}

/** How long in ms a model may be silent. No bound on the whole answer: minutes are healthy. */
export const silenceMs = (): number => Number(process.env["MODEL_SILENCE_MS"] ?? 60_000);
// ANCHOR_END: models
