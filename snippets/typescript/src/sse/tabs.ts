// sse/tabs: one connection for all tabs of an origin.
//
// Use it where the server speaks HTTP/1.1 to browsers: six connections for each scheme, host and port are
// all that the tabs have together, and the seventh stream blocks every other request. HTTP/2 needs it less.
// Promise: one tab (the holder of a Web Lock) is connected, all tabs receive; when it closes, the next tab
// takes over from the last event that it has seen itself.

// ANCHOR: tabs
export interface SharedEvent {
  readonly type: string;
  readonly data: string;
  readonly lastEventId: string;
}

/** Opens the stream after `lastEventId` and gives each event to `publish`; returns how to close it. */
export type OpenStream = (lastEventId: string, publish: (event: SharedEvent) => void) => () => void;

export function shareAcrossTabs(
  name: string,
  openStream: OpenStream,
  onEvent: (event: SharedEvent) => void,
): () => void {
  const channel = new BroadcastChannel(name);
  let lastEventId = "";
  let leaving = new AbortController();
  let closeStream: (() => void) | undefined;

  const receive = (event: SharedEvent): void => {
    lastEventId = event.lastEventId;
    onEvent(event);
  };
  channel.addEventListener("message", (message: MessageEvent<SharedEvent>) => {
    // A tab that leads has its events from the server; those of the tab before it are replayed.
    if (closeStream === undefined) receive(message.data);
  });

  const join = (): void => {
    const { signal } = leaving;
    navigator.locks
      .request(name, { signal }, async () => {
        closeStream = openStream(lastEventId, (event) => {
          channel.postMessage({ type: event.type, data: event.data, lastEventId: event.lastEventId });
          receive(event);
        });
        // The lock is held, and the tab leads, until this promise settles or the tab is gone.
        await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
      })
      .catch(() => undefined); // the wait for the lock was given up
  };

  const leave = (): void => {
    closeStream?.();
    closeStream = undefined;
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
// ANCHOR_END: tabs
