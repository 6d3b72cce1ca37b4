// node mcp.mjs <URL of the MCP endpoint>
// The TypeScript SDK's client speaks to our server; one JSON object of findings.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const url = new URL(process.argv[2]);
const info = { name: "test", version: "1" };
const found = {};

const client = new Client(info, { versionNegotiation: { mode: { pin: "2026-07-28" } } });
await client.connect(new StreamableHTTPClientTransport(url));
found.server = client.getServerVersion();
found.tools = (await client.listTools()).tools.map((tool) => tool.name);

const progress = [];
const onprogress = ({ progress: done, message }) => progress.push([done, message]);
found.counted = await client.callTool({ name: "zähle", arguments: { to: 3 } }, { onprogress });
found.progress = progress;
found.failed = await client.callTool({ name: "fail", arguments: {} });
found.unknown = await client.callTool({ name: "no_such_tool" }).catch((error) => error.code);

// Stop while the tool is silent.
const stop = new AbortController();
const call = client.callTool({ name: "wait", arguments: {} }, { signal: stop.signal, onprogress: () => stop.abort() });
found.stopped = await call.then(
  () => "no",
  (error) => error.constructor.name,
);
await client.close();

// What the client does when nobody tells it the revision.
const legacy = new Client(info);
found.byDefault = await legacy.connect(new StreamableHTTPClientTransport(url)).then(
  () => "connected",
  (error) => error.constructor.name,
);

// Asked to find out, it does.
const auto = new Client(info, { versionNegotiation: { mode: "auto" } });
await auto.connect(new StreamableHTTPClientTransport(url));
found.auto = (await auto.listTools()).tools.length;
await auto.close();

console.log(JSON.stringify(found));
