// ANCHOR: jobs
import type { EventLog } from "@/lib/event-log.ts";

// One for the process: a module's own variable exists once for route handlers and once more for pages, and is a new one
// after each change under `next dev`. Across processes a log in Redis or NATS takes its place.
const shared = globalThis as typeof globalThis & { jobs?: Map<string, EventLog> };

/** The logs of running jobs. Only the server adds a log: a name that a client sends must not create state. */
export const jobs = (shared.jobs ??= new Map<string, EventLog>());
// ANCHOR_END: jobs
