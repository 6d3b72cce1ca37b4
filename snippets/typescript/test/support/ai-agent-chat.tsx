// `useChat` with the history on the server, approvals, resume, and a Stop that reaches the server.
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses, type UIMessage } from "ai";
import { useEffect } from "react";
import { createRoot } from "react-dom/client";

export interface AiChatSeen {
  text: string;
  status: string;
  states: string[];
}

const seen: AiChatSeen = { text: "", status: "", states: [] };

interface History {
  messages: UIMessage[];
  active: boolean;
}

function AgentChat({ api, id, history }: { api: string; id: string; history: History }): React.ReactNode {
  const { messages, sendMessage, status, addToolApprovalResponse } = useChat({
    id,
    messages: history.messages,
    resume: history.active,
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
    transport: new DefaultChatTransport({
      api,
      prepareSendMessagesRequest: ({ id, messages, trigger, messageId }) => ({
        body: { id, trigger, messageId, messages: messages.slice(-1) },
      }),
    }),
  });
  const answer = messages.findLast(({ role }) => role === "assistant");
  const tools = answer?.parts.flatMap((part) => ("toolCallId" in part && "state" in part ? [part] : [])) ?? [];
  useEffect(() => {
    seen.text = answer?.parts.map((part) => (part.type === "text" ? part.text : "")).join("") ?? "";
    Object.assign(seen, { status, states: tools.map(({ state }) => state) });
  });
  const waiting = tools.find(({ state }) => state === "approval-requested");
  const approval = waiting !== undefined && "approval" in waiting ? waiting.approval : undefined;
  return (
    <main>
      <button id="send" onClick={() => void sendMessage({ text: "Hello" })}>
        Send
      </button>
      <button id="stop" onClick={() => void fetch(`${api}/${id}/stream`, { method: "DELETE" })}>
        Stop
      </button>
      {approval !== undefined && status === "ready" && (
        <button id="approve" onClick={() => void addToolApprovalResponse({ id: approval.id, approved: true })}>
          Approve
        </button>
      )}
    </main>
  );
}

export async function mountAgentChat(api: string, id: string): Promise<AiChatSeen> {
  const response = await fetch(`${api}/${id}`);
  const history = response.ok ? ((await response.json()) as History) : { messages: [], active: false };
  document.body.replaceChildren(document.createElement("div"));
  createRoot(document.body.firstElementChild!).render(<AgentChat api={api} id={id} history={history} />);
  return seen;
}
