"""A feed with resume on FastAPI: `python fastapi_feed.py [PORT]`. The contract is that of node-feed.mjs."""

import asyncio, json, random, re, secrets, sys
from collections import deque

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

MAX_EVENTS = 1000  # kept for clients that reconnect
MAX_STREAMS = 500  # below `ulimit -n`
QUEUE = 256  # events that wait for one client
HEARTBEAT = 15.0
HEADERS = {"cache-control": "no-cache, no-store, no-transform", "x-accel-buffering": "no"}

app = FastAPI()
epoch = secrets.token_hex(4)  # a cursor of an earlier process is recognized
log: deque[str] = deque(maxlen=MAX_EVENTS)
tail = 0  # sequence number of the newest event
streams: set[asyncio.Queue] = set()
stopping = False


class Message(BaseModel):
    event: str = Field(pattern=r"^[A-Za-z0-9._:~-]{1,64}$")
    data: dict | list | str | float | bool


@app.post("/events", status_code=202)
async def publish(message: Message) -> None:
    global tail
    if message.event in ("error", "open", "reset", "ping", "restart"):
        raise HTTPException(422, "the event name is reserved")
    tail += 1
    # json.dumps escapes line breaks: nothing can be injected into the format.
    log.append(f"id: {epoch}-{tail}\nevent: {message.event}\ndata: {json.dumps(message.data)}\n\n")
    for queue in list(streams):
        if queue.full():  # a slow client is cut; it reconnects with its cursor
            streams.discard(queue)
            queue.get_nowait()
            queue.put_nowait(None)
        else:
            queue.put_nowait(log[-1])


def replay(cursor: str) -> str:
    """What a client with this cursor is sent first; a cursor that cannot be used is a `reset`, never silence."""
    first, reason = tail - len(log) + 1, None
    found = re.fullmatch(r"([0-9a-f]+)-(0|[1-9]\d{0,14})", cursor, re.ASCII)
    start = int(found[2]) + 1 if found else tail + 1  # a newcomer starts at the next event
    if cursor and not found:
        reason = "invalid"
    elif found and found[1] != epoch:
        reason = "epoch"
    elif start > tail + 1:
        reason = "ahead"
    elif start < first:
        reason = "trimmed"
    retry = f"retry: {random.randint(1500, 4500)}\n\n"  # a restart is not followed by all clients at once
    if reason:
        reset = f'id: {epoch}-{first - 1}\nevent: reset\ndata: {{"reason":"{reason}"}}\n\n'
        return retry + reset + "".join(log)
    return f"id: {epoch}-{start - 1}\n{retry}" + "".join(list(log)[start - first :])


@app.head("/events")
def head() -> Response:
    return Response(media_type="text/event-stream", headers=HEADERS)


# ANCHOR: body
@app.get("/events")
async def events(request: Request, lastEventId: str = "") -> Response:
    if stopping or len(streams) >= MAX_STREAMS:
        return Response(status_code=503, headers={"retry-after": "5"})
    queue: asyncio.Queue = asyncio.Queue(QUEUE)
    begin = replay(request.headers.get("last-event-id", lastEventId))
    streams.add(queue)

    async def body():
        try:  # Starlette cancels this when the client disconnects
            yield begin
            while (block := await wait(queue)) is not None:
                yield block
        finally:
            streams.discard(queue)

    return StreamingResponse(body(), media_type="text/event-stream", headers=HEADERS)


# ANCHOR_END: body
async def wait(queue: asyncio.Queue) -> str | None:
    try:
        return await asyncio.wait_for(queue.get(), HEARTBEAT)
    except TimeoutError:
        return "event: ping\ndata: {}\n\n"  # an event: EventSource hides comments from the page


# ANCHOR: exit
class Server(uvicorn.Server):
    def handle_exit(self, sig, frame) -> None:
        """uvicorn waits for open responses: end them in band, and it exits."""
        global stopping
        stopping = True
        super().handle_exit(sig, frame)
        for queue in list(streams):
            if queue.full():
                queue.get_nowait()
            for last in ("event: restart\ndata: {}\n\n", None):
                if not queue.full():
                    asyncio.get_running_loop().call_soon_threadsafe(queue.put_nowait, last)


# ANCHOR_END: exit
if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=20)
    socket = config.bind_socket()
    socket.listen()
    print("listening {}:{}".format(*socket.getsockname()), flush=True)
    Server(config).run(sockets=[socket])
