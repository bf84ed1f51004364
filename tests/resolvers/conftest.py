"""Key stores on real sockets: moto's AWS, and a small HTTP server that each test gives its answers."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from moto.server import ThreadedMotoServer


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Store:
    """A server whose answers are a function: request -> (status, tree, headers)."""

    answer: Callable[[Asked], tuple[int, Any, dict[str, str]]]
    asked: list[Asked] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def stores() -> Iterator[Callable[..., Store]]:
    """`stores(answer, tls=context)`: a key store on a port of its own."""
    servers: list[ThreadingHTTPServer] = []

    def make(
        answer: Callable[[Asked], tuple[int, Any, dict[str, str]]], tls: ssl.SSLContext | None = None
    ) -> Store:
        store = Store(answer)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, self.rfile.read(length))
                store.asked.append(asked)
                status, tree, extra = store.answer(asked)
                data = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **extra}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *words: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        store.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        return store

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """moto's AWS, on a socket."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """AWS as this process sees it; gives boto3's clients by service."""
    import boto3

    for name, value in (("AWS_ENDPOINT_URL", moto_url), ("AWS_REGION", "eu-central-1"), ("AWS_DEFAULT_REGION", "eu-central-1"),
                        ("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing"),
                        ("AWS_EC2_METADATA_DISABLED", "true")):  # fmt: skip
        monkeypatch.setenv(name, value)
    return lambda service: boto3.client(service)
