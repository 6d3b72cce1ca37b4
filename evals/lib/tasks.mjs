// The grader of each task.

import * as audits from "./audit.mjs";
import * as llm from "./llm.mjs";
import * as nginx from "./nginx.mjs";
import * as sse from "./sse.mjs";
import * as streams from "./streams.mjs";
import * as ws from "./ws.mjs";

export const tasks = {
  "sse-feed": sse.feed,
  "sse-jobs": sse.jobs,
  "ws-board": ws.board,
  "llm-relay": llm.relay,
  "ndjson-export": streams.ndjson,
  "stream-export": streams.module("export-scenarios.mjs", "export.ts"),
  "sse-client": streams.module("client-scenarios.mjs", "client.ts"),
  "nginx-front": nginx.front,
  "audit-gateway": audits.audit,
  "audit-page": audits.audit,
};
