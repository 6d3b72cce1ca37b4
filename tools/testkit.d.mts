export const browserArguments: string[];
export function chromiumPath(): string;
export function freePort(first?: number, count?: number): Promise<number>;
