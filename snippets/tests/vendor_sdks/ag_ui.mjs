// node ag_ui.mjs <base URL>
// The client of AG-UI against POST /<script>/agent of the test; one JSON object a line:
// {script, outcome, result, failed: [code, message], threw, messages, waits}
import { HttpAgent } from "@ag-ui/client";

const [base] = process.argv.slice(2);

function open(script, threadId = crypto.randomUUID()) {
  const agent = new HttpAgent({ url: `${base}/${script}/agent`, threadId });
  agent.addMessage({ id: crypto.randomUUID(), role: "user", content: "Weather and time?" });
  return agent;
}

async function run(script, agent, parameters, subscriber) {
  const seen = { script, outcome: null, result: null, failed: null, threw: null };
  try {
    const { result } = await agent.runAgent(parameters, {
      onRunFinishedEvent: ({ event }) => void (seen.outcome = event.outcome),
      onRunErrorEvent: ({ event }) => void (seen.failed = [event.code, event.message]),
      ...subscriber,
    });
    seen.result = result ?? null;
  } catch (error) {
    seen.threw = `${error.name}: ${error.message}`;
  }
  const messages = agent.messages.map(({ id, ...message }) => message);
  console.log(JSON.stringify({ ...seen, messages, waits: agent.pendingInterrupts }));
}

for (const script of ["plain", "length", "error", "cut", "no-end"]) await run(script, open(script));

// The same run again: the answer that it has already.
const [runId, threadId] = [crypto.randomUUID(), crypto.randomUUID()];
for (const script of ["plain", "plain"]) await run("again", open(script, threadId), { runId });

for (const approved of [true, false]) {
  const agent = open("agent");
  await run("agent", agent);
  const resume = agent.pendingInterrupts.map(({ id }) => ({
    interruptId: id,
    status: "resolved",
    payload: { approved },
  }));
  await run(approved ? "approved" : "declined", agent, { resume });
}

// Stop is a request of its own; the stream that is read ends with it.
const stopped = { runId: crypto.randomUUID() };
await run("stall", open("stall"), stopped, {
  onTextMessageContentEvent: () => {
    void fetch(`${base}/stall/agent/${stopped.runId}`, { method: "DELETE" });
  },
});
