"""A client of WebSockets and of gRPC that nobody changed: what it gets from two hosts, as one line of JSON.

talk.py WEBSOCKET_HOST GRPC_HOST        roots by SSL_CERT_FILE, a proxy by https_proxy
"""

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import websockets.exceptions
import websockets.sync.client

faulthandler.dump_traceback_later(100, exit=True)  # a client that hangs says where
SAID = b"abc" * 20_000


def websocket(host: str) -> Any:
    try:
        with websockets.sync.client.connect(f"wss://{host}/v1/realtime?model=m", open_timeout=20) as there:
            there.send("hello")
            first = there.recv(20)
            there.send(SAID)
            return [first, there.recv(20) == SAID[::-1]]
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


print(json.dumps({"websocket": websocket(sys.argv[1]), "grpc": rpc(sys.argv[2])}), flush=True)
