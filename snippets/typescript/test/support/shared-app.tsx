// Two parts of a page that show one stream, and one socket.
import { StrictMode, useEffect, useState } from "react";
import { createRoot, type Root } from "react-dom/client";
import { createEventStream, useEventStream } from "../../src/sse/use-event-stream.ts";
import { createSocket, useWebSocket } from "../../src/websocket/use-websocket.ts";

export interface Shared {
  renders: { count: number; last: number };
  mount(): void;
  unmount(): void;
  send(text: string): boolean;
}

/** As a server renders it. */
export function Prerendered(): React.ReactNode {
  return <b>{useEventStream(prerendered, ({ data, status }) => `${data} ${status}`)}</b>;
}
const prerendered = createEventStream("/events", {
  initial: "nothing yet",
  types: ["message"],
  lastTypes: ["done"],
  reduce: (_, { data }: MessageEvent<string>) => data,
});

interface Data {
  count: number;
  last: string;
}

export function makeShared(kind: "sse" | "websocket", url: string, lingerMs: number): Shared {
  const renders = { count: 0, last: 0 };
  const add = ({ count }: Data, last: string): Data => ({ count: count + 1, last });
  const initial = { count: 0, last: "" };
  const stream = createEventStream(url, {
    initial,
    types: ["message"],
    lastTypes: ["done"],
    minDelay: 1,
    lingerMs,
    reduce: (data, event) => (event.type === "done" ? data : add(data, event.data)),
  });
  const socket = createSocket<Data>({
    initial,
    url: () => url,
    minDelay: 1,
    lingerMs,
    onOpen: () => undefined,
    reduce: (data, message) => add(data, message as string),
  });
  const useCount =
    kind === "sse"
      ? (): number => useEventStream(stream, ({ data }) => data.count)
      : (): number => useWebSocket(socket, ({ data }) => data.count);
  const useLast =
    kind === "sse"
      ? (): string => useEventStream(stream, ({ data, status, code }) => `${data.last} ${status} ${code ?? ""}`.trim())
      : (): string => useWebSocket(socket, ({ data, connection }) => `${data.last} ${connection}`);

  function Count(): React.ReactNode {
    renders.count += 1;
    return <b id="count">{useCount()}</b>;
  }
  function Last(): React.ReactNode {
    renders.last += 1;
    return <i id="last">{useLast()}</i>;
  }

  let root: Root | undefined;
  return {
    renders,
    mount() {
      root = createRoot(document.body.appendChild(document.createElement("div")));
      root.render(
        <StrictMode>
          <Count />
          <Last />
        </StrictMode>,
      );
    },
    unmount() {
      root?.unmount();
    },
    send: socket.send,
  };
}

/** The wrong way: a selector that makes a new object each time. */
export function mountFresh(url: string): void {
  const stream = createEventStream(url, { initial: 0, types: ["message"], lastTypes: ["done"], reduce: (n) => n + 1 });
  function Fresh(): React.ReactNode {
    return <b>{useEventStream(stream, ({ data }) => ({ data })).data}</b>;
  }
  createRoot(document.body.appendChild(document.createElement("div"))).render(<Fresh />);
}

/** The wrong way: each component has a connection of its own. */
export function mountOwn(url: string, components: number): void {
  function Part(): React.ReactNode {
    const [last, setLast] = useState("");
    useEffect(() => {
      const source = new EventSource(url);
      source.onmessage = (event: MessageEvent<string>) => setLast(event.data);
      return () => source.close();
    }, []);
    return <i className="part">{last}</i>;
  }
  createRoot(document.body.appendChild(document.createElement("div"))).render(
    <StrictMode>
      {Array.from({ length: components }, (_, at) => (
        <Part key={at} />
      ))}
    </StrictMode>,
  );
}
