// Stands for a database: the last answers, whole and cut.
const shared = globalThis as typeof globalThis & { answers?: { text: string; outcome: string }[] };

const MOST = 1_000;

export const answers = {
  all: (): readonly { text: string; outcome: string }[] => (shared.answers ??= []),
  push(answer: { text: string; outcome: string }): void {
    const all = (shared.answers ??= []);
    all.push(answer);
    if (all.length > MOST) all.shift();
  },
};
