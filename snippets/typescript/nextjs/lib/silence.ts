// ANCHOR: silence
/** Aborts `signal` when a model has been silent for `ms`: `listen` while it is awaited, `pause` while the reader is. */
export function watchSilence(ms: number): { signal: AbortSignal; listen: () => void; pause: () => void } {
  const silence = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const pause = (): void => clearTimeout(timer);
  const listen = (): void => {
    pause();
    timer = setTimeout(() => silence.abort(), ms);
  };
  return { signal: silence.signal, listen, pause };
}
// ANCHOR_END: silence
