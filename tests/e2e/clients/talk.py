"""A client of WebSockets and of gRPC that nobody changed: what it gets from two hosts, as one line of JSON.

talk.py WEBSOCKET_HOST GRPC_HOST        roots by SSL_CERT_FILE, a proxy by https_proxy
"""

import asyncio
import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import websockets.asyncio.client
import websockets.exceptions

faulthandler.dump_traceback_later(100, exit=True)  # a client that hangs says where
SAID = b"abc" * 20_000


async def websocket(host: str) -> Any:
    """Not by websockets' client of threads: one thread reads while the other writes, for which CPython's ssl has no lock
    (python/cpython#151508). 8 of 3,000 of its connections to a plain TLS server of asyncio's hung, none of 2,000 of this."""
    try:
        uri = f"wss://{host}/v1/realtime?model=m"
        async with websockets.asyncio.client.connect(uri, open_timeout=20) as there, asyncio.timeout(40):
            await there.send("hello")
            first = await there.recv()
            await there.send(SAID)
            return [first, await there.recv() == SAID[::-1]]
    except websockets.exceptions.InvalidStatus as error:
        return [error.response.status_code, json.loads(error.response.body or b"null")]


def rpc(host: str) -> Any:
    roots = grpc.ssl_channel_credentials(Path(os.environ["SSL_CERT_FILE"]).read_bytes())
    with grpc.secure_channel(f"{host}:443", roots) as channel:
        try:
            one = channel.unary_unary("/echo/One")(SAID, timeout=20)
            # Each message is asked for behind the answer to the one before: nothing is kept back.
            got: list[str] = []

            def messages() -> Any:
                for number in range(5):
                    while len(got) < number:
                        yield_to.wait(0.01)
                    yield f"m{number}".encode()

            import threading

            yield_to = threading.Event()
            for answer in channel.stream_stream("/echo/Many")(messages(), timeout=20):
                got.append(answer.decode())
            return [one == SAID[::-1], got]
        except grpc.RpcError as error:
            return [error.code().name, error.details()]  # type: ignore[attr-defined]


print(json.dumps({"websocket": asyncio.run(websocket(sys.argv[1])), "grpc": rpc(sys.argv[2])}), flush=True)
