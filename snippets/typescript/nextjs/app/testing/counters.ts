// What the tests look at from outside.
const shared = globalThis as typeof globalThis & { counters?: Record<string, number> };

export const counters = (shared.counters ??= {});

export function count(name: string): void {
  counters[name] = (counters[name] ?? 0) + 1;
}
