// `node publish.mjs PORT PATH`: posts one small order and waits until it is accepted (for stream-probe --publish).
import { request } from "./tools.mjs";

const [port, path] = process.argv.slice(2);
const { status } = await request(Number(port), "POST", path, { body: { n: -Number(process.env.STREAM_PROBE_N ?? 1) } });
process.exit(status < 300 ? 0 : 1);
