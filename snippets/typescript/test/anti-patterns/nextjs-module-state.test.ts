// Wrong: a hub, a list of subscribers or a log in a variable of a module
// Harm: pages have an instance of their own: what a route handler publishes they never see
// Instead: streams/nextjs
// Probe: cannot see: between a route and a page
import { expect, test } from "vitest";
import { origin } from "../support/nextjs.ts";

test("a page does not see what a route handler has added", async () => {
  await fetch(`${origin()}/wrong/module-state/write`, { method: "POST", body: "one" });
  const page = await (await fetch(`${origin()}/wrong/module-state`)).text();
  // On globalThis both are the same.
  expect(page).toContain("own 0, shared 1");
});
