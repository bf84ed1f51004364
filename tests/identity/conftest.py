"""An issuer of tokens on a real socket."""

import asyncio
import contextlib
import json
import warnings
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, RSAKey

from llmshield import clock


@cache
def _key() -> RSAKey:
    """One for the session: making it takes a tenth of a second."""
    return RSAKey.generate_key(2048, {"kid": "k1"})


class Issuer:
    """An OpenID provider as far as tokens go: a key set over HTTP, and tokens signed with its keys."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"k1": _key()}
        self.answer: bytes | None = None
        """What is sent instead of the key set."""
        self.others: dict[str, bytes] = {}
        """What else it serves, by path."""
        self.head = "200 OK"
        self.down = False
        self.asked = 0
        self.url = ""

    def published(self) -> bytes:
        return json.dumps({"keys": [key.as_dict(private=False) for key in self.keys.values()]}).encode()

    def token(
        self, kid: str = "k1", alg: str = "RS256", key: Any = None, header: Any = None, **claims: Any
    ) -> str:
        now = int(clock.now())
        full = {"iss": "https://issuer.test/", "aud": "llmshield", "sub": "acme", "exp": now + 300, **claims}
        head = {"alg": alg, "kid": kid} if header is None else header
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # of `EdDSA`, the old name
            signed: str = jwt.encode(
                head, {name: value for name, value in full.items() if value is not None},
                key or self.keys[kid], algorithms=[alg],
            )  # fmt: skip
        return signed

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked += 1
        if not self.down:
            body = self.others.get(path) or (self.answer if self.answer is not None else self.published())
            head = (
                f"HTTP/1.1 {self.head}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            )
            writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys.json"
    yield made
    server.close()
    await server.wait_closed()


@pytest.fixture(scope="session")
def ec_key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": "e1"})
