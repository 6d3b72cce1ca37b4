export interface ServerEvent {
  type: string;
  data: string;
  /** The last event id of the stream so far. */
  id: string;
}

export interface Options {
  signal: AbortSignal;
  /** Reconnect when nothing has come for this long. */
  idleMs?: number;
  /** Bounds of the wait before a reconnect. */
  minDelayMs?: number;
  maxDelayMs?: number;
  /** Give up on an event that is longer. */
  maxEventChars?: number;
}

export async function* subscribe(url: string, options: Options): AsyncGenerator<ServerEvent, void, void> {
  throw new Error("to do");
}
