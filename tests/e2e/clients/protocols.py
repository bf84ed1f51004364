"""Serves a WebSocket at every path and a gRPC service, each over TLS, and counts who came.

    protocols.py HOST WEBSOCKET_PORT GRPC_PORT CONTROL_PORT CERTIFICATE_AND_KEY

Prints `ready`. GET of the control port: how many WebSockets were opened and gRPC calls made.
"""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp.web
import grpc
import grpc.aio

COUNTS = {"websocket": 0, "grpc": 0}


async def echo(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
    COUNTS["websocket"] += 1
    answer = aiohttp.web.WebSocketResponse()
    await answer.prepare(request)
    async for message in answer:
        if message.type is aiohttp.WSMsgType.TEXT:
            await answer.send_str(message.data[::-1])
        else:
            await answer.send_bytes(message.data[::-1])
    return answer


class Service(grpc.GenericRpcHandler):
    """/echo/One: a message and its answer; /echo/Many: an answer as each message comes."""

    def service(self, call: Any) -> Any:
        if call.method == "/echo/One":
            return grpc.unary_unary_rpc_method_handler(self.one)
        return grpc.stream_stream_rpc_method_handler(self.many)

    async def one(self, message: bytes, context: Any) -> bytes:
        COUNTS["grpc"] += 1
        return message[::-1]

    async def many(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        COUNTS["grpc"] += 1
        async for message in messages:
            yield message[::-1]


async def count(request: aiohttp.web.Request) -> aiohttp.web.Response:
    return aiohttp.web.Response(text=json.dumps(COUNTS))


async def main() -> None:
    host, websocket, rpc, control, pair = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair)
    for port, handler, tls in ((websocket, echo, context), (control, count, None)):
        app = aiohttp.web.Application()
        app.add_routes([aiohttp.web.get("/{path:.*}", handler)])
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, host if tls else "127.0.0.1", int(port), ssl_context=tls).start()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Service()])
    text = Path(pair).read_bytes()
    server.add_secure_port(f"{host}:{rpc}", grpc.ssl_server_credentials([(text, text)]))
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
