// websocket/use-websocket: a WebSocket for React components, one connection for all of them.
//
// Use it in pages that show one socket in several places. Goes with `websocket/client.ts` and `streams/shared-store.ts`.
// Guarantees: those of both. `send` is the client's: false while nothing is open. What must arrive goes through
// `websocket/outbox.ts`, rooms through `websocket/rooms.ts`, in a store made the same way.

// ANCHOR: use
import { SharedStore, useShared } from "../streams/shared-store.ts";
import { type ClientOptions, type ClientState, type Data, WebSocketClient } from "./client.ts";

export interface SocketState<S> {
  readonly connection: ClientState;
  /** Why it stopped: a close code, or 4000 for an error in `reduce`. */
  readonly code?: number;
  readonly data: S;
}

export interface SocketOptions<S> extends Omit<ClientOptions, "onMessage" | "onState"> {
  initial: S;
  /** Returns a new value, or the same one if nothing changes. Bounds what it collects. */
  reduce(data: S, message: Data): S;
  lingerMs?: number;
}

export interface Socket<S> {
  readonly store: SharedStore<SocketState<S>>;
  send: WebSocketClient["send"];
}

/** Call it once, outside of components. */
export function createSocket<S>({ initial, reduce, lingerMs, ...options }: SocketOptions<S>): Socket<S> {
  let client: WebSocketClient | undefined;
  const open = (): (() => void) => {
    const own = new WebSocketClient({
      ...options,
      onMessage: (message) => {
        store.update((state) => {
          const data = reduce(state.data, message);
          return Object.is(data, state.data) ? state : { ...state, data };
        });
      },
      onState: (connection, code) => {
        // Closed because no component uses it any more: do not show that as a stop.
        if (connection === "stopped" && code === 1000) return;
        store.update((state) => ({ ...state, connection, ...(code === undefined ? {} : { code }) }));
      },
    });
    client = own;
    return () => own.close();
  };
  const store = new SharedStore<SocketState<S>>({ connection: "connecting", data: initial }, open, lingerMs);
  return { store, send: (data) => client?.send(data) ?? false };
}

/** `const users = useWebSocket(socket, ({ data }) => data.users)`: renders only when that part changes. */
export function useWebSocket<S, T>(socket: Socket<S>, select: (state: SocketState<S>) => T): T {
  return useShared(socket.store, select);
}
// ANCHOR_END: use
