// sse/tabs: one connection for all tabs of an origin.
//
// Use it if the server speaks HTTP/1.1 to browsers: six connections for each scheme, host and port are
// all that the tabs have together, and the seventh stream blocks every other request. HTTP/2 needs it less.
// Guarantees: one tab (the holder of a Web Lock) is connected, all tabs receive; when it closes, the next tab
// takes over from the last event that it has seen itself. A tab that opens later gets the current state, and each tab
// the end. Without Web Locks, which exist in secure contexts only, each tab connects on its own.

export interface SharedEvent {
  readonly type: string;
  readonly data: string;
  readonly lastEventId: string;
}

/** Opens the stream after `lastEventId`, gives each event to `publish` and the end to `end`; returns how to close it. */
export type OpenStream = (
  lastEventId: string,
  publish: (event: SharedEvent) => void,
  end: (reason: string) => void,
) => () => void;

// ANCHOR: options
export interface TabsOptions {
  /** Called in every tab when the stream is over, with the reason that was given to `end`. No tab opens it again. */
  onEnd?(reason: string): void;
  /**
   * Called in the connected tab when another tab opens: returns the events that bring that tab to the current state.
   * Default: the last event, which is right if each event is the complete state.
   */
  current?(): readonly SharedEvent[];
}
// ANCHOR_END: options

type Message =
  | { kind: "event"; event: SharedEvent; to?: string } // `to`: for the tab that has said hello
  | { kind: "hello"; from: string }
  | { kind: "leads" }
  | { kind: "end"; reason: string };

export function shareAcrossTabs(
  name: string,
  openStream: OpenStream,
  onEvent: (event: SharedEvent) => void,
  { onEnd, current }: TabsOptions = {},
): () => void {
  const me = `${performance.timeOrigin}-${Math.random()}`;
  const channel = new BroadcastChannel(name);
  const say = (message: Message): void => channel.postMessage(message);
  let last: SharedEvent | undefined;
  let ended: string | undefined;
  let leads = false;
  let leaving = new AbortController();
  let closeStream: (() => void) | undefined;

  const receive = (event: SharedEvent): void => {
    last = event;
    onEvent(event);
  };
  const end = (reason: string): void => {
    if (ended !== undefined) return;
    ended = reason;
    if (leads) say({ kind: "end", reason });
    onEnd?.(reason);
  };
  // ANCHOR: message
  channel.addEventListener("message", ({ data: message }: MessageEvent<Message>) => {
    if (leads) {
      // The connected tab has its events from the server, so it ignores those of the channel.
      if (message.kind !== "hello") return;
      for (const event of current?.() ?? (last === undefined ? [] : [last]))
        say({ kind: "event", event, to: message.from });
      if (ended !== undefined) say({ kind: "end", reason: ended });
    } else if (message.kind === "event" && (message.to ?? me) === me) receive(message.event);
    else if (message.kind === "end") end(message.reason);
    else if (message.kind === "leads" && last === undefined) say({ kind: "hello", from: me }); // it was not heard before
  });
  // ANCHOR_END: message

  // ANCHOR: lead
  const lead = (alone: boolean): void => {
    leads = !alone;
    if (leads) say({ kind: "leads" });
    if (ended !== undefined) return; // the lock is held, so that no other tab opens it again
    const publish = ({ type, data, lastEventId }: SharedEvent): void => {
      const event = { type, data, lastEventId };
      if (leads) say({ kind: "event", event });
      receive(event);
    };
    closeStream = openStream(last?.lastEventId ?? "", publish, end);
  };
  // ANCHOR_END: lead

  const join = (): void => {
    if (navigator.locks === undefined) {
      lead(true);
      return;
    }
    const { signal } = leaving;
    say({ kind: "hello", from: me });
    navigator.locks
      .request(name, { signal }, async () => {
        lead(false);
        // The lock is held, and the tab leads, until this promise settles or the tab is closed.
        await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      })
      .catch(() => undefined); // the wait for the lock was given up
  };

  const leave = (): void => {
    closeStream?.();
    closeStream = undefined;
    leads = false;
    leaving.abort();
    leaving = new AbortController();
  };
  // A page in the back/forward cache runs no code: it must not lead.
  const onPageShow = (event: PageTransitionEvent): void => {
    if (event.persisted) join();
  };
  addEventListener("pagehide", leave);
  addEventListener("pageshow", onPageShow);
  join();

  return () => {
    removeEventListener("pagehide", leave);
    removeEventListener("pageshow", onPageShow);
    leave();
    channel.close();
  };
}
