"""An LLM relay with Stop on FastAPI: `MODEL_KEY=… python fastapi_relay.py [PORT]`, POST /chat {"messages": […]}."""

import asyncio, json, logging, os, sys
from contextlib import aclosing
from typing import Annotated, AsyncIterator, Literal

import httpx, uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from httpx_sse import EventSource
from pydantic import BaseModel, Field

MODEL_URL = os.environ.get("MODEL_URL", "https://api.openai.com/v1")
MODEL, KEY = os.environ.get("MODEL", "gpt-5-mini"), os.environ.get("MODEL_KEY", "")
SILENCE = 300.0  # a model that thinks sends nothing for minutes; there is no total timeout
HEAD = 0.5  # a refusal within this time becomes a status
HEARTBEAT = 15.0
MAX_CHATS = 100
HEADERS = {"cache-control": "no-cache, no-store, no-transform", "x-accel-buffering": "no"}

app = FastAPI()
client = httpx.AsyncClient(timeout=httpx.Timeout(10.0, read=SILENCE), follow_redirects=False)
chats = 0


class Message(BaseModel):
    role: Literal["user", "assistant"]  # a client's `system` message would speak with your authority
    content: Annotated[str, Field(max_length=100_000)]


class Chat(BaseModel):
    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]


class Refused(Exception):
    def __init__(self, status: int, code: str, retry_after: str = "5"):
        self.status, self.code, self.retry_after = status, code, retry_after


def block(name: str, data: dict) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def answer(chat: Chat) -> AsyncIterator[str]:
    """Closing this generator closes the provider's connection: that is Stop."""
    body = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}, **chat.model_dump()}
    reason = usage = ended = None
    try:
        url, headers = f"{MODEL_URL}/chat/completions", {"authorization": f"Bearer {KEY}"} if KEY else {}
        async with client.stream("POST", url, json=body, headers=headers) as response:
            if response.status_code != 200:
                logging.error("provider: %s %s", response.status_code, (await response.aread())[:500])
                busy = response.status_code in (429, 503, 529)
                wait = response.headers.get("retry-after", "5")
                raise Refused(429, "busy", wait) if busy else Refused(502, "model_failed")
            async for event in EventSource(response).aiter_sse():
                if ended := event.data == "[DONE]":
                    break
                chunk = json.loads(event.data)
                if "error" in chunk:
                    raise ValueError(event.data[:500])
                choice = (chunk.get("choices") or [{}])[0]  # the usage chunk has none
                if text := (choice.get("delta") or {}).get("content"):
                    yield block("text", {"text": text})
                reason = choice.get("finish_reason") or reason
                usage = chunk.get("usage") or usage  # a total, not an increment
    except (httpx.HTTPError, ValueError):
        logging.exception("the answer was cut")
        yield block("failed", {"code": "model_failed", "retryable": True})
        return
    # Complete only with a finish reason: a connection that is cut can look like a normal end.
    if reason and ended:
        yield block("done", {"reason": reason, "usage": usage})
    else:
        yield block("failed", {"code": "truncated", "retryable": True})


async def body(events, first: asyncio.Task) -> AsyncIterator[str]:
    """The events, with a heartbeat while the model is silent. Starlette cancels this when the client disconnects."""
    global chats
    try:
        async with aclosing(events):
            yield "event: ping\ndata: {}\n\n"  # the response headers leave with the first bytes
            while True:
                try:
                    while not (await asyncio.wait({first}, timeout=HEARTBEAT))[0]:
                        yield "event: ping\ndata: {}\n\n"
                    yield first.result()
                except StopAsyncIteration:
                    return
                except Refused as refused:  # too late for a status
                    yield block("failed", {"code": refused.code, "retryable": True})
                    return
                first = asyncio.ensure_future(anext(events))
    finally:
        first.cancel()
        chats -= 1


@app.post("/chat")
async def chat(request: Chat):
    global chats
    if chats >= MAX_CHATS:  # before anything is paid for
        return JSONResponse({"code": "busy"}, 503, {"retry-after": "5"})
    chats += 1
    events = answer(request)
    first = asyncio.ensure_future(anext(events))
    done, _ = await asyncio.wait({first}, timeout=HEAD)
    if done and isinstance(refused := first.exception(), Refused):
        chats -= 1
        return JSONResponse({"code": refused.code}, refused.status, {"retry-after": refused.retry_after})
    return StreamingResponse(body(events, first), media_type="text/event-stream", headers=HEADERS)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    # Answers that are paid for are finished; then the process exits.
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=60)
    socket = config.bind_socket()
    socket.listen()
    print("listening {}:{}".format(*socket.getsockname()), flush=True)
    uvicorn.Server(config).run(sockets=[socket])
