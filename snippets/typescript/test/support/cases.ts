// The case files that the Rust parser is tested with.
import { readFileSync } from "node:fs";

export interface Case {
  name: string;
  raw_base64: string;
  expected: { type: string; data: string; lastEventId: string }[];
  retry_ms?: number | null;
  last_event_id_at_eof?: string;
  initial_last_event_id?: string;
  content_type?: string;
  connection?: string;
}

export function readCases(): Case[] {
  return ["sse-cases", "wpt-sse-cases", "ld-sse-cases"].flatMap((file) => {
    const text = readFileSync(new URL(`../../../tests/data/${file}.json`, import.meta.url), "utf8");
    return (JSON.parse(text) as { cases: Case[] }).cases.map((each) => ({ ...each, name: `${file}: ${each.name}` }));
  });
}

export function bytesOf({ raw_base64 }: Case): Buffer {
  return Buffer.from(raw_base64, "base64");
}

/** A small seeded generator: a failure can be run again. */
export function seeded(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
}

/** `bytes` cut at random. */
export function cut(bytes: Uint8Array<ArrayBuffer>, random: (bound: number) => number): Uint8Array<ArrayBuffer>[] {
  const chunks = [];
  for (let at = 0; at < bytes.length; ) {
    const to = at + 1 + random(Math.min(9, bytes.length - at));
    chunks.push(bytes.subarray(at, to));
    at = to;
  }
  return chunks;
}

export function single(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer>[] {
  return Array.from(bytes, (_, at) => bytes.subarray(at, at + 1));
}
