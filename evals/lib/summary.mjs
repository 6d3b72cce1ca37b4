export const summarise = () => ({});
