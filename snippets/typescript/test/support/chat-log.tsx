// The page of a conversation, and one that scrolls.
import { StrictMode, useEffect } from "react";
import { createRoot } from "react-dom/client";
import { relaySource } from "../../src/llm/answer-source.ts";
import { Chat, type ChatMessage } from "../../src/llm/chat.ts";
import { type Sticky, stickToBottom } from "../../src/llm/stick-to-bottom.ts";
import { ChatLog, useChat } from "../../src/llm/use-chat-log.tsx";

const chat = new Chat(relaySource("/chat"));
const renders = new Map<string, number>();

export const log = {
  chat,
  mounted: 0,
  last: (): ChatMessage | undefined => chat.getMessages().at(-1),
  renders: (id: string): number => renders.get(id) ?? 0,
};

function show(message: ChatMessage): React.ReactNode {
  renders.set(message.id, (renders.get(message.id) ?? 0) + 1);
  return message.text;
}

function Page(): React.ReactNode {
  useEffect(() => void (log.mounted += 1), []); // twice in StrictMode
  return <ChatLog messages={useChat(chat)} show={show} />;
}

export function mountLog(): void {
  createRoot(document.body.appendChild(document.createElement("div"))).render(
    <StrictMode>
      <Page />
    </StrictMode>,
  );
}

export function mountSticky(): {
  scroller: HTMLElement;
  grow: () => Promise<void>;
  sticky: Sticky;
  frames: () => Promise<void>;
} {
  const scroller = document.body.appendChild(document.createElement("div"));
  scroller.style.cssText = "height: 200px; overflow-y: auto";
  const content = scroller.appendChild(document.createElement("div"));
  const sticky = stickToBottom(scroller, content);
  const frames = async (): Promise<void> => {
    for (let n = 0; n < 3; n++) await new Promise((resolve) => requestAnimationFrame(resolve));
  };
  const grow = async (): Promise<void> => {
    for (let n = 0; n < 10; n++) {
      content.appendChild(document.createElement("p")).textContent = "One more paragraph.";
      await frames();
    }
  };
  return { scroller, grow, sticky, frames };
}
