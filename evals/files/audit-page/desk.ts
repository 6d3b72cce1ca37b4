// The browser's side of the desk: alerts (EventSource), the room (WebSocket), the assistant (fetch).
// `render` puts Markdown into HTML; it does not sanitise.
import { render } from "./markdown.ts";

type Alert = { id: number; text: string };

export class Alerts {
  #source: EventSource | undefined;
  #watchdog: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly onAlert: (alert: Alert) => void,
    private readonly onReset: () => void,
  ) {}

  open(): void {
    this.#source = new EventSource("/alerts", { withCredentials: true });
    this.#source.addEventListener("alert", (event) => {
      this.#alive();
      this.onAlert(JSON.parse(event.data) as Alert);
    });
    this.#source.addEventListener("ping", () => this.#alive());
    this.#source.addEventListener("reset", () => this.onReset());
    // The trading day is over: the server has sent everything.
    this.#source.addEventListener("done", () => this.#show("closed for today"));
    this.#source.onerror = () => {
      this.#show("reconnecting"); // EventSource reconnects by itself
    };
    this.#alive();
  }

  /** Heartbeats come every 15 s: after 45 s without one the connection is dead. */
  #alive(): void {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => {
      this.#source?.close();
      this.open();
    }, 45_000);
  }

  close(): void {
    clearTimeout(this.#watchdog);
    this.#source?.close();
  }

  #show(text: string): void {
    document.querySelector("#alerts-state")!.textContent = text;
  }
}

export class Room {
  #socket!: WebSocket;
  #queue: string[] = [];

  constructor(
    private readonly url: string,
    private readonly onLine: (line: string) => Promise<void>,
  ) {
    this.#connect();
  }

  #connect(): void {
    this.#socket = new WebSocket(this.url);
    this.#socket.binaryType = "blob";
    this.#socket.onmessage = async (event: MessageEvent<string | Blob>) => {
      const line = typeof event.data === "string" ? event.data : await event.data.text();
      await this.onLine(line);
    };
    this.#socket.onopen = () => {
      for (const line of this.#queue.splice(0)) this.#socket.send(line);
    };
    this.#socket.onclose = () => {
      setTimeout(() => this.#connect(), 1_000);
    };
  }

  say(text: string): void {
    const line = JSON.stringify({ id: crypto.randomUUID(), text });
    if (this.#socket.readyState === WebSocket.CONNECTING) this.#queue.push(line);
    else this.#socket.send(line);
  }

  leave(): void {
    this.#socket.close(1000);
  }
}

export class Assistant {
  #stopped = false;

  constructor(private readonly output: HTMLElement) {}

  stop(): void {
    this.#stopped = true;
  }

  async ask(prompt: string): Promise<"complete" | "failed"> {
    this.#stopped = false;
    this.output.innerHTML = "";
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        return await this.#read(prompt);
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 1_000 * 2 ** attempt * Math.random()));
      }
    }
    return "failed";
  }

  async #read(prompt: string): Promise<"complete"> {
    const response = await fetch("/assistant", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt }),
      signal: AbortSignal.timeout(30_000),
    });
    if (!response.ok || response.body === null) throw new Error(`HTTP ${response.status}`);
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (this.#stopped) break;
      const text = decoder.decode(value);
      for (const line of text.split("\n")) {
        if (!line.startsWith("data: ")) continue;
        const event = JSON.parse(line.slice(6)) as { text?: string };
        this.output.innerHTML += render(event.text ?? "");
      }
    }
    return "complete";
  }
}
