"""An event stream and WebSockets with websockets, aiohttp and Tornado: `others.py KIND`."""

import asyncio
import http
import socket
import sys


def listening(listener: socket.socket) -> None:
    print(f"listening 127.0.0.1:{listener.getsockname()[1]}", flush=True)


async def with_websockets(careful: bool) -> None:
    from websockets.asyncio.server import serve

    async def echo(connection) -> None:
        if not careful:
            async for message in connection:
                await connection.send(message)
            return
        budget = 1000
        async for message in connection:
            budget -= 1
            if budget < 0:
                return await connection.close(1008, "too many messages")
            if isinstance(message, bytes):
                return await connection.close(1003, "text only")
            await connection.send(message)

    def authorize(connection, request):
        if request.headers.get("Cookie") != "sid=1":
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "unauthorized\n")
        return None

    options = {}
    if careful:
        options = {
            "process_request": authorize,
            "origins": ["https://app.example"],
            "subprotocols": ["chat.v1"],
            "max_size": 64 * 1024,
            "ping_interval": 2,
            "ping_timeout": 2,
        }
    listener = socket.create_server(("127.0.0.1", 0))
    async with serve(echo, sock=listener, **options) as server:
        listening(listener)
        await server.serve_forever()


async def with_aiohttp() -> None:
    from aiohttp import WSMsgType, web
    from aiohttp_sse import sse_response

    log: list[str] = []
    changed = asyncio.Condition()

    async def publish(_request: web.Request) -> web.Response:
        async with changed:
            log.append(f'{{"n": {len(log) + 1}}}')
            changed.notify_all()
        return web.Response(status=204)

    async def events(request: web.Request) -> web.StreamResponse:
        cursor = request.headers.get("Last-Event-ID", "")
        known = cursor.isascii() and cursor.isdecimal() and len(cursor) < 10 and int(cursor) <= len(log)
        at = int(cursor) if known else len(log)
        async with sse_response(request) as response:
            response.ping_interval = 3
            if cursor and not known:
                await response.send("{}", event="reset")
            while response.is_connected():
                while at < len(log):
                    at += 1
                    await response.send(log[at - 1], id=str(at))
                async with changed:
                    await changed.wait_for(lambda: at < len(log))
        return response

    async def sockets(request: web.Request) -> web.WebSocketResponse:
        # The example of its documentation.
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            if message.type == WSMsgType.TEXT:
                await response.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await response.send_bytes(message.data)
        return response

    app = web.Application()
    app.add_routes([web.post("/publish", publish), web.get("/events", events), web.get("/ws", sockets)])
    runner = web.AppRunner(app)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    listening(listener)
    await asyncio.Event().wait()


async def with_tornado() -> None:
    import tornado.httpserver
    import tornado.iostream
    import tornado.web

    log: list[str] = []
    changed = asyncio.Condition()

    class Publish(tornado.web.RequestHandler):
        async def post(self) -> None:
            async with changed:
                log.append(f'{{"n": {len(log) + 1}}}')
                changed.notify_all()
            self.set_status(204)

    class Events(tornado.web.RequestHandler):
        async def get(self) -> None:
            self.set_header("Content-Type", "text/event-stream")
            self.set_header("Cache-Control", "no-cache")
            at = len(log)
            try:
                while True:
                    async with changed:
                        await changed.wait_for(lambda: at < len(log))
                    while at < len(log):
                        self.write(f"data: {log[at]}\n\n")
                        at += 1
                    await self.flush()
            except tornado.iostream.StreamClosedError:
                pass

    app = tornado.web.Application([("/publish", Publish), ("/events", Events)])
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    tornado.httpserver.HTTPServer(app).add_socket(listener)
    listening(listener)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(
        {
            "websockets": lambda: with_websockets(careful=False),
            "websockets-careful": lambda: with_websockets(careful=True),
            "aiohttp": with_aiohttp,
            "tornado": with_tornado,
        }[sys.argv[1]]()
    )
