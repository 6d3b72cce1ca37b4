// An agent with tools: approve or decline a call, stop it at any moment, cut its stream, reload the page.
import { readEvents } from "./llm-events.js";
import { onLeave, panel } from "./panel.js";

export default async function mount(element, base) {
  const p = panel(element, "An agent that asks before it acts");
  const view = document.createElement("div");
  view.setAttribute("aria-live", "polite");
  view.style.minHeight = "5em";
  p.controls.after(view);

  /** The chat and its service: a reload finds them. */
  let chat = JSON.parse(sessionStorage.getItem("llm-agents"));
  /** The assistant's, in the parts of the protocol that this page shows. */
  let message = { id: "", parts: [] };
  let reading;
  const api = () => `${base}/agent/${chat.hangs}/chat`;
  const waiting = () => message.parts.find((part) => part.state === "approval-requested");

  function show() {
    const lines = message.parts.map((part) => {
      const line = document.createElement("p");
      const output = part.output === undefined ? "" : ` ${JSON.stringify(part.output)}`;
      line.textContent = part.text ?? `${part.name} ${JSON.stringify(part.input ?? {})}: ${part.state}${output}`;
      return line;
    });
    view.replaceChildren(...lines);
  }

  /** One part of the stream; the words of the end, if it is one. */
  function take({ type, ...part }) {
    const tool = message.parts.findLast(({ toolCallId }) => toolCallId && toolCallId === part.toolCallId);
    if (type === "start") message.id = part.messageId;
    if (type === "text-start") message.parts.push({ text: "" });
    if (type === "text-delta") message.parts.at(-1).text += part.delta;
    if (type === "tool-input-start")
      message.parts.push({ toolCallId: part.toolCallId, name: part.toolName, state: "input-streaming" });
    if (type === "tool-input-available") Object.assign(tool, { state: "running", input: part.input });
    if (type === "tool-approval-request")
      Object.assign(tool, { state: "approval-requested", approval: part.approvalId });
    if (type === "tool-output-available") Object.assign(tool, { state: "done", output: part.output });
    if (type === "tool-output-error" || type === "tool-input-error")
      Object.assign(tool, { state: "failed", output: part.errorText });
    if (type === "tool-output-denied") tool.state = "declined";
    if (type === "error") return ["failed", part.errorText];
    if (type !== "finish") return undefined;
    for (const part of message.parts) if (part.state === "running") part.state = "stopped";
    if (part.finishReason === "tool-calls") return ["waiting", "waits for your decision"];
    return part.finishReason === "stop" ? ["done", "complete"] : ["idle", "stopped"];
  }

  /** Reads an answer to its end. After a cut it attaches again: the server has the answer from its start. */
  async function read(open) {
    reading?.abort();
    const own = (reading = new AbortController());
    const before = structuredClone(message);
    for (;;) {
      try {
        const response = await open(own.signal);
        if (response.status === 204) return await load(); // it has ended meanwhile
        if (!response.ok) return p.status("failed", `status ${response.status}`);
        message = structuredClone(before);
        p.status("open", "answering");
        let end;
        for await (const { data } of readEvents(response.body)) {
          if (data === "[DONE]") return p.status(...(end ?? ["failed", "no end"]));
          end = take(JSON.parse(data)) ?? end;
          show();
        }
      } catch (error) {
        if (own.signal.aborted) return; // another answer is read
        if (!(error instanceof TypeError)) throw error; // `fetch` and its body fail so if the network does
      }
      p.note("the stream was cut: attaching again");
      p.status("waiting", "attaching again");
      await new Promise((resolve) => setTimeout(resolve, 300));
      open = attach;
    }
  }
  const attach = (signal) => fetch(`${api()}/${chat.id}/stream`, { signal });
  const post = (message) => (signal) =>
    fetch(api(), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ id: chat.id, trigger: "submit-message", messages: [message] }),
      signal,
    });

  /** What the server has of the chat, after a reload. */
  async function load() {
    const response = await fetch(`${api()}/${chat.id}`);
    if (!response.ok) return p.status("failed", "the server has forgotten this chat");
    const { messages, active } = await response.json();
    const last = messages.findLast(({ role }) => role === "assistant") ?? { id: "", parts: [] };
    const states = {
      "input-available": "stopped",
      "output-available": "done",
      "output-error": "failed",
      "output-denied": "declined",
    };
    const shown = last.parts.filter(({ type }) => type === "text" || type.startsWith("tool-"));
    message = {
      id: last.id,
      parts: shown.map((part) =>
        part.type === "text"
          ? { text: part.text }
          : {
              ...part,
              name: part.type.slice(5),
              state: states[part.state] ?? part.state,
              approval: part.approval?.id,
              output: part.output ?? part.errorText,
            },
      ),
    };
    show();
    if (active) return read(attach);
    p.status(...(waiting() ? ["waiting", "waits for your decision"] : ["done", "has ended"]));
  }

  async function ask(hangs) {
    if (chat) await stop();
    chat = { id: crypto.randomUUID(), hangs };
    sessionStorage.setItem("llm-agents", JSON.stringify(chat));
    message = { id: "", parts: [] };
    p.clear();
    show();
    p.status("waiting", "asking");
    const parts = [{ type: "text", text: "What is the weather, and what time is it?" }];
    void read(post({ id: crypto.randomUUID(), role: "user", parts }));
  }

  function decide(approved) {
    const call = waiting();
    if (!call || p.root.querySelector(".live-status").dataset.state !== "waiting") return p.note("nothing waits");
    const { name, toolCallId, approval: id } = call;
    const part = { type: `tool-${name}`, toolCallId, approval: { id, approved } };
    call.state = approved ? "running" : "declined";
    show();
    void read(post({ id: message.id, role: "assistant", parts: [part] }));
  }

  async function stop() {
    if (!chat) return p.note("nothing to stop");
    const response = await fetch(`${api()}/${chat.id}/stream`, { method: "DELETE" });
    p.note(`DELETE: status ${response.status}`);
  }

  p.button("Ask", () => ask("nothing"));
  p.button("Ask, the model hangs", () => ask("model"));
  p.button("Ask, the tool hangs", () => ask("tool"));
  p.button("Approve", () => decide(true));
  p.button("Decline", () => decide(false));
  p.button("Stop", stop);
  p.button("Cut", () => p.cut(base, `${base}/agent`));
  onLeave(() => reading?.abort());
  if (chat) await load();
}
