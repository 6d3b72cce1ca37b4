// Wrong: one for route handlers, one more for pages.
export const names: string[] = [];
