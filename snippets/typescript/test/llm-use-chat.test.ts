// The AI SDK's own chats, of versions 5, 6 and 7, against the Rust server of `llm/use_chat`.
import * as ai7 from "ai";
import * as ai5 from "ai5";
import * as ai6 from "ai6";
import { describe, expect, inject, test } from "vitest";
import type { AiChatSeen } from "./support/ai-agent-chat.tsx";
import { load, openPage } from "./support/browser.ts";
import { eventually } from "./support/server.ts";

declare const pattern: typeof import("./support/ai-agent-chat.tsx");

type Version = "5" | "6" | "7";
const sdks = { "5": ai5, "6": ai6, "7": ai7 } as unknown as Record<Version, typeof ai7>;
const rust = (): string => inject("rust");

type Part = Record<string, unknown>;
interface Message {
  id: string;
  role: string;
  parts: Part[];
}

/** `AbstractChat` is what `useChat` runs; the state is React's part. */
function open(version: Version, script: string, options: Record<string, unknown> = {}) {
  const sdk = sdks[version];
  const finished: { finishReason?: string; isAbort: boolean; isError: boolean }[] = [];
  const errors: string[] = [];
  const api = `${rust()}/use-chat${version === "7" ? "" : "-6"}/${script}/chat`;
  class Chat extends sdk.AbstractChat<never> {
    constructor(init: Record<string, unknown>) {
      const state = {
        status: "ready",
        error: undefined,
        messages: [] as unknown[],
        pushMessage: (message: unknown) => void state.messages.push(message),
        popMessage: () => void state.messages.pop(),
        replaceMessage: (index: number, message: unknown) => void (state.messages[index] = message),
        snapshot: <T>(thing: T): T => structuredClone(thing),
      };
      super({ ...init, state } as never);
    }
  }
  const chat = new Chat({
    id: crypto.randomUUID(),
    // The server has the history: the newest message is enough.
    transport: new sdk.DefaultChatTransport({
      api,
      prepareSendMessagesRequest: ({ id, messages, trigger, messageId }) => ({
        body: { id, trigger, messageId, messages: messages.slice(-1) },
      }),
    }),
    onFinish: (end: never) => void finished.push(end),
    onError: (error: Error) => void errors.push(error.message),
    ...options,
  });
  const messages = (): Message[] => chat.messages as unknown as Message[];
  const history = async (): Promise<{ messages: Message[]; active: boolean }> =>
    (await (await fetch(`${api}/${chat.id}`)).json()) as { messages: Message[]; active: boolean };
  const text = (): string =>
    messages()
      .at(-1)!
      .parts.map((part) => (part["type"] === "text" ? part["text"] : ""))
      .join("");
  return { api, chat, messages, history, text, finished, errors };
}

const say = (text: string): never => ({ text }) as never;
/** Without what an SDK keeps for itself, and without fields that are undefined. */
function plain(messages: Message[]): unknown {
  const drop = ["providerExecuted", "rawInput", "preliminary", "errorText", "title", "id", "metadata"];
  const parts = (all: Part[]): Part[] =>
    all.map((part) =>
      Object.fromEntries(
        Object.entries(part).filter(
          ([name, value]) => value !== undefined && !(drop.includes(name) && !(name === "errorText" && value)),
        ),
      ),
    );
  return messages.map(({ id, role, parts: all }) => ({ id, role, parts: parts(all) }));
}

describe.each(["5", "6", "7"] as const)("AI SDK %s", (version) => {
  test("an answer, another one, and the server has the same history", async () => {
    const { chat, text, messages, history, finished, errors } = open(version, "plain");
    await chat.sendMessage(say("Hello"));
    expect([text(), chat.status, errors]).toEqual(["Hello from the scripted model.", "ready", []]);
    const first = messages()[1]!.id;
    await chat.regenerate();
    expect(messages()).toHaveLength(2);
    expect(messages()[1]!.id).not.toBe(first);
    await chat.sendMessage(say("Again"));
    expect(plain((await history()).messages)).toEqual(plain(messages()));
    if (version !== "5") expect(finished.at(-1)?.finishReason).toBe("stop");
  });

  test("a cut answer and a failed one are errors, and no part stays open", async () => {
    for (const script of ["cut", "error"]) {
      const { chat, messages, history, errors } = open(version, script);
      await chat.sendMessage(say("Hello"));
      expect(chat.status).toBe("error");
      expect(errors.join()).not.toMatch(/key|org/);
      const parts = messages()[1]!.parts;
      expect(parts.map((part) => part["state"]).filter(Boolean)).toEqual(["done"]);
      expect(plain((await history()).messages)).toEqual(plain(messages()));
    }
  });

  test("Stop over another request ends the answer here, and at the provider", async () => {
    const { api, chat, text, history, finished, errors } = open(version, "stall");
    const sent = chat.sendMessage(say("Hello"));
    await eventually(() => chat.messages.length === 2 && text() !== "");
    await fetch(`${api}/${chat.id}/stream`, { method: "DELETE" });
    await sent;
    expect([chat.status, errors]).toEqual(["ready", []]);
    expect(text()).toBe("Hello from ");
    if (version !== "5") expect(finished[0]?.finishReason).toBe(version === "7" ? "interrupted" : "other");
    const { messages, active } = await history();
    expect([messages[1]!.parts[1]!["text"], active]).toEqual(["Hello from ", false]);
  });

  test("a page that is loaded again resumes the answer; afterwards there is nothing to resume", async () => {
    const before = open(version, "stall");
    void before.chat.sendMessage(say("Hello"));
    await eventually(() => before.chat.messages.length === 2 && before.text() !== "");
    const { messages, active } = await before.history();
    expect(active).toBe(true);
    const after = open(version, "stall", { id: before.chat.id });
    after.chat.messages = messages as never;
    const resumed = after.chat.resumeStream();
    await eventually(() => after.chat.messages.length === 2 && after.text() !== "");
    await fetch(`${rust()}/use-chat/release`, { method: "POST" });
    await resumed;
    expect([after.text(), after.chat.status]).toEqual(["Hello from the scripted model.", "ready"]);
    expect(plain((await after.history()).messages)).toEqual(plain(after.messages()));
    await after.chat.resumeStream();
    expect([after.messages().length, after.chat.status]).toEqual([2, "ready"]);
  });
});

describe.each(["6", "7"] as const)("AI SDK %s, approvals", (version) => {
  test.each([true, false])("a call waits for the user: %s", async (approved) => {
    const sdk = sdks[version];
    const { chat, messages, history, text, errors } = open(version, "agent", {
      sendAutomaticallyWhen: sdk.lastAssistantMessageIsCompleteWithApprovalResponses,
    });
    await chat.sendMessage(say("Weather and time?"));
    expect([chat.status, errors]).toEqual(["ready", []]);
    const states = (): unknown[] =>
      messages()[1]!
        .parts.filter((part) => String(part["type"]).startsWith("tool-"))
        .map((part) => part["state"]);
    expect(states()).toEqual(["output-available", "approval-requested"]);
    const approval = messages()[1]!.parts.find((part) => part["approval"] !== undefined)!["approval"] as { id: string };
    await chat.addToolApprovalResponse({ id: approval.id, approved });
    await eventually(
      () => chat.status === "ready" && text().includes("scripted model.") && messages()[1]!.parts.length > 5,
    );
    expect(states()).toEqual(["output-available", approved ? "output-available" : "output-denied"]);
    expect(messages()).toHaveLength(2);
    expect(plain((await history()).messages)).toEqual(plain(messages()));
  });

  test("two tabs that approve the same call get the same answer", async () => {
    const sendAutomaticallyWhen = sdks[version].lastAssistantMessageIsCompleteWithApprovalResponses;
    const one = open(version, "agent", { sendAutomaticallyWhen });
    await one.chat.sendMessage(say("Weather and time?"));
    const two = open(version, "agent", { id: one.chat.id, sendAutomaticallyWhen });
    two.chat.messages = structuredClone(one.messages()) as never;
    const approval = one.messages()[1]!.parts.find((part) => part["approval"] !== undefined)!["approval"] as {
      id: string;
    };
    for (const { chat } of [one, two]) void chat.addToolApprovalResponse({ id: approval.id, approved: true });
    for (const { chat, text, messages } of [one, two])
      await eventually(
        () => chat.status === "ready" && text().includes("scripted model.") && messages()[1]!.parts.length > 5,
      );
    expect([one.errors, two.errors]).toEqual([[], []]);
    expect(plain(two.messages())).toEqual(plain(one.messages()));
    expect(plain((await one.history()).messages)).toEqual(plain(one.messages()));
  });
});

/** A provider may repeat the ids of its calls in each step. */
test.each(["5", "6", "7"] as const)("AI SDK %s keeps calls of the same id in two steps apart", async (version) => {
  const step = (n: number): Part[] => [
    { type: "start-step" },
    { type: "tool-input-start", toolCallId: "call_0", toolName: "w" },
    { type: "tool-input-available", toolCallId: "call_0", toolName: "w", input: { n } },
    { type: "tool-output-available", toolCallId: "call_0", output: n },
    { type: "finish-step" },
  ];
  const parts = [{ type: "start", messageId: "m" }, ...step(1), ...step(2), { type: "finish", finishReason: "stop" }];
  const body = [...parts.map((part) => JSON.stringify(part)), "[DONE]"].map((data) => `data: ${data}\n\n`).join("");
  const headers = { "content-type": "text/event-stream", "x-vercel-ai-ui-message-stream": "v1" };
  const { chat, messages, errors } = open(version, "plain", {
    transport: new sdks[version].DefaultChatTransport({
      api: rust(),
      fetch: async () => new Response(body, { headers }),
    }),
  });
  await chat.sendMessage(say("Hello"));
  expect(errors).toEqual([]);
  const calls = messages()[1]!.parts.filter((part) => part["toolCallId"] === "call_0");
  expect(calls.map((part) => [part["input"], part["output"]])).toEqual([
    [{ n: 1 }, 1],
    [{ n: 2 }, 2],
  ]);
});

test("in Chromium, from another origin: an approval, a reload in the middle, and Stop", async () => {
  const origin = rust().replace("127.0.0.1", "localhost");
  const seenOn = async (page: Awaited<ReturnType<typeof openPage>>): Promise<AiChatSeen> =>
    await page.evaluate(() => (window as unknown as { seen: AiChatSeen }).seen);
  const mount = async (page: Awaited<ReturnType<typeof openPage>>, api: string, id: string): Promise<void> => {
    await load(page, "test/support/ai-agent-chat.tsx");
    await page.evaluate(
      async ([to, chat]) => Object.assign(window, { seen: await pattern.mountAgentChat(to!, chat!) }),
      [api, id],
    );
  };
  const page = await openPage(origin);
  await mount(page, `${rust()}/use-chat/agent/chat`, crypto.randomUUID());
  await page.click("#send");
  await page.click("#approve");
  await eventually(async () => (await seenOn(page)).states.join() === "output-available,output-available");
  await eventually(async () => (await seenOn(page)).status === "ready");

  const id = crypto.randomUUID();
  const api = `${rust()}/use-chat/stall/chat`;
  await mount(page, api, id);
  await page.click("#send");
  await eventually(async () => (await seenOn(page)).text === "Hello from ");
  await page.reload();
  await mount(page, api, id);
  await eventually(async () => (await seenOn(page)).text === "Hello from ");
  await page.click("#stop");
  await eventually(async () => (await seenOn(page)).status === "ready");
  expect((await seenOn(page)).text).toBe("Hello from ");
  const exchanges = (await (await fetch(`${rust()}/use-chat/exchanges`)).json()) as {
    end: string;
    request: { model: string };
  }[];
  const stalled = exchanges.filter(({ request }) => request.model === "scripted/stall");
  expect(stalled.at(-1)!.end).toContain("ReaderGone");

  // A page of an origin that is not allowed gets nothing.
  const other = await openPage(rust());
  const refused = await other.evaluate(async (url) => {
    const body = JSON.stringify({ id: "x", messages: [] });
    const headers = { "content-type": "application/json" };
    return await fetch(url, { method: "POST", headers, body }).then(String, () => "refused");
  }, `${origin}/use-chat/plain/chat`);
  expect(refused).toBe("refused");
});
