"""Event streams and a WebSocket with FastAPI and sse-starlette."""

import asyncio
import socket
import sys

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from sse_starlette import EventSourceResponse

app = FastAPI()
log: list[dict] = []
changed = asyncio.Condition()


@app.post("/publish", status_code=204)
async def publish() -> None:
    async with changed:
        log.append({"n": len(log) + 1})
        changed.notify_all()


async def follow(request: Request):
    cursor = request.headers.get("last-event-id", "")
    at = int(cursor) if cursor.isdecimal() and cursor.isascii() and len(cursor) < 10 else len(log)
    if at > len(log):
        yield {"event": "reset", "data": "{}"}
        at = len(log)
    while True:
        while at < len(log):
            at += 1
            yield {"id": str(at), "data": str(log[at - 1])}
        async with changed:
            await changed.wait_for(lambda: at < len(log))


@app.get("/sse-starlette")
async def events(request: Request) -> EventSourceResponse:
    return EventSourceResponse(follow(request), ping=3)


@app.get("/ticks")
async def ticks() -> EventSourceResponse:
    async def tick():
        for n in range(1000):
            yield {"data": str(n)}
            await asyncio.sleep(0.5)

    return EventSourceResponse(tick())


try:
    from fastapi.sse import EventSourceResponse as FastApiEvents, ServerSentEvent

    @app.get("/fastapi", response_class=FastApiEvents)
    async def fastapi_events(request: Request):
        async for item in follow(request):
            yield ServerSentEvent(id=item.get("id"), event=item.get("event"), raw_data=item["data"])
except ImportError:  # an older FastAPI
    pass


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=2)).run([listener])
