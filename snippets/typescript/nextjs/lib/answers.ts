// Represents a database: the last answers, whole and cut.
export interface Answer {
  question: string;
  text: string;
  outcome: string;
}

const shared = globalThis as typeof globalThis & { answers?: Answer[] };

const MOST = 1_000;

export const answers = {
  all: (): readonly Answer[] => (shared.answers ??= []),
  push(answer: Answer): void {
    const all = (shared.answers ??= []);
    all.push(answer);
    if (all.length > MOST) all.shift();
  },
};
