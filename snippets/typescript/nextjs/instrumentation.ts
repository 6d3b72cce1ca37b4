import type { Instrumentation } from "next";

/** Once for each process, before the first request. */
export async function register(): Promise<void> {
  // Keep this form of the condition: the file is built for the edge runtime too, and only this form leaves the import
  // out there.
  if (process.env.NEXT_RUNTIME === "nodejs") {
    const { checkEnvironment } = await import("@/lib/settings.ts");
    try {
      checkEnvironment();
    } catch (error) {
      // If this function threw, Next would log the error and serve errors.
      console.error(error);
      process.exit(1);
    }
    const { subscribe } = await import("node:diagnostics_channel");
    // The first token, not the headers or the first ping, which come immediately whatever the model does.
    subscribe("llm:first-token", (message) =>
      console.info(JSON.stringify({ metric: "llm_first_token_ms", ...(message as object) })),
    );
  }
}

// ANCHOR: instrumentation
/** What handlers throw, and what a body fails with later: "failed to pipe response", with the reason as its cause. */
export const onRequestError: Instrumentation.onRequestError = (error, request) => {
  const reason = error instanceof Error ? (error.cause ?? error.message) : error;
  console.error(JSON.stringify({ path: request.path, error: String(reason) }));
};
// ANCHOR_END: instrumentation
