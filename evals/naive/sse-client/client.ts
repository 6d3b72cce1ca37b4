// The client as it is often written: split at blank lines, reconnect at a fixed delay, everything that ends is over.
export async function* subscribe(url: string, options: any): AsyncGenerator<any, void, void> {
  const { signal, minDelayMs = 1000 } = options;
  let id = "";
  while (!signal.aborted) {
    try {
      const headers: Record<string, string> = id ? { "Last-Event-ID": id } : {};
      const response = await fetch(url, { headers, signal });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const reader = response.body!.getReader();
      const decoder = new TextDecoder();
      let buffer = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        buffer += decoder.decode(value, { stream: true });
        const blocks = buffer.split("\n\n");
        buffer = blocks.pop()!;
        for (const block of blocks) {
          let type = "message";
          const data: string[] = [];
          for (const line of block.split("\n")) {
            if (line.startsWith("data: ")) data.push(line.slice(6));
            if (line.startsWith("event: ")) type = line.slice(7);
            if (line.startsWith("id: ")) id = line.slice(4);
          }
          yield { type, data: data.join("\n"), id };
          if (type === "end") return;
        }
      }
    } catch {
      if (signal.aborted) return;
    }
    await new Promise((resolve) => setTimeout(resolve, minDelayMs));
  }
}
