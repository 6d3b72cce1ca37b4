// The page: asks with a key per question, reads the answer as an EventSource, which resumes on its own, and stops by DELETE.
// The key and the conversation are in sessionStorage, so a reload shows the answer from its beginning.
const log = document.querySelector("#log");
const status = document.querySelector("#status");
const stop = document.querySelector("#stop");
const question = document.querySelector("#question");
const messages = JSON.parse(sessionStorage.getItem("messages") ?? "[]");

let busy = false;

const save = () => sessionStorage.setItem("messages", JSON.stringify(messages));

function show(role, text) {
  const article = log.appendChild(document.createElement("article"));
  article.className = role;
  return article.appendChild(document.createTextNode(text)); // text, never HTML
}

function read(key) {
  const text = show("assistant", "");
  const source = new EventSource(`/generations/${key}`);
  const end = (state, keep) => {
    source.close();
    busy = false;
    stop.disabled = true;
    status.textContent = state;
    // A failed answer is not sent to the model again; a stopped one is what the user has read.
    if (keep && text.data !== "") messages.push({ role: "assistant", content: text.data });
    save();
  };
  busy = true;
  stop.disabled = false;
  status.textContent = "The answer is being written.";
  source.addEventListener("text", ({ data }) => text.appendData(JSON.parse(data).text));
  source.addEventListener("refusal", ({ data }) => text.appendData(JSON.parse(data).text));
  source.addEventListener("done", ({ data }) => {
    sessionStorage.removeItem("key");
    const { reason } = JSON.parse(data);
    const complete = reason === "stop" || reason === "tool_calls";
    if (reason === "refusal" || reason === "content_filter") messages.pop(); // the question, too
    end(complete ? "" : `Incomplete: ${reason}`, complete || reason === "max_tokens");
  });
  source.addEventListener("failed", ({ data }) => {
    sessionStorage.removeItem("key");
    const { code } = JSON.parse(data);
    end(code === "stopped" ? "Stopped." : `Failed: ${code}`, code === "stopped");
  });
  source.addEventListener("reset", () => {
    text.data = "";
  });
  source.addEventListener("error", () => {
    // Leaving the page fires it too: the key stays, for the next one.
    if (source.readyState === EventSource.CLOSED) end("The answer is no longer there.", false);
  });
}

document.querySelector("#ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (busy) return;
  busy = true;
  const content = question.value;
  const key = [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
  const before = messages.at(-1);
  if (before?.role === "user") before.content += `\n\n${content}`;
  else messages.push({ role: "user", content });
  show("user", content);
  sessionStorage.setItem("key", key);
  save();
  question.value = "";
  status.textContent = "Asking.";
  // The same key again asks nothing twice.
  for (let attempt = 0; ; attempt++) {
    try {
      const response = await fetch("/generations", {
        method: "POST",
        headers: { "content-type": "application/json", "idempotency-key": key },
        body: JSON.stringify({ messages }),
      });
      void response.body?.cancel(); // the EventSource reads it
      if (response.ok) return read(key);
      status.textContent = `Refused: ${response.status}`;
      break;
    } catch {
      if (attempt === 4) break;
      await new Promise((resolve) => setTimeout(resolve, 1_000 * 2 ** attempt));
    }
  }
  busy = false;
  sessionStorage.removeItem("key");
});

stop.addEventListener("click", () => {
  void fetch(`/generations/${sessionStorage.getItem("key")}`, { method: "DELETE", keepalive: true });
});

for (const { role, content } of messages) show(role, content);
const running = sessionStorage.getItem("key");
if (running !== null) read(running);
