"""The upstream HTTP client: one pool per provider, a deadline for each phase, nothing decompressed unbounded.

The interface is narrow (`Transport.ask`, `Upstream`), so that another client can take this one's place. What goes
wrong on the way is an UpstreamError with its reason; redirects are never followed (a key must not travel to a host
that the policy does not name), proxies and cookies of the environment are never used.

A question on a connection that was used before may meet a provider that is just closing it. A GET is then asked once
more (RFC 9110, 9.2.2). A call is not sent again from here: whether it was read nobody knows, and each try has to be
paid for. `failover` decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import aiohappyeyeballs

from llmshield import clock
from llmshield.answer import Take
from llmshield.connection import Connection
from llmshield.errors import UpstreamError
from llmshield.heads import lines_of

if TYPE_CHECKING:
    from llmshield.dialects import WireRequest

_KEEP_S = 30.0
"""How long a connection is kept for the next question: below the 60 s and more that providers keep theirs."""
_SPARE_S = 5.0
"""How long those are kept that a crowd has left behind, besides the last `_SPARES`."""
_SPARES = 4
_DNS_S = 30.0
"""How long the addresses of a name are kept."""
_EYEBALLS_S = 0.25
"""When the next address is tried beside one that does not answer (RFC 8305, 5)."""
_SAFE = frozenset({"GET", "HEAD"})


@dataclass(slots=True, frozen=True)
class Timeouts:
    """Seconds for each phase of an attempt."""

    connect: float
    first_token: float
    idle: float
    total: float


class Upstream(Protocol):
    """An answer whose head has arrived."""

    status: int
    headers: Mapping[str, str]

    async def chunk(self, take: Take | None = None) -> bytes:
        """The next bytes of the body, decompressed; b"" at its end. Raises: UpstreamError.

        What arrives while this waits may be offered to `take` first; what that takes is not returned.
        """
        ...

    def rest(self) -> bytes | None:
        """What is left of the body, if all of it is here and needs no unpacking; else None."""
        ...

    def idle_after(self, seconds: float) -> None:
        """The first token is here: from now on, silence longer than this is an error (reason `idle`)."""
        ...

    def close(self) -> None:
        """Let go of the answer; a body that was not read to its end closes the connection."""
        ...


class Transport(Protocol):
    """Asks one provider."""

    async def ask(self, request: WireRequest, timeouts: Timeouts) -> Upstream:
        """Send the request, return when the head of the answer is here. Raises: UpstreamError."""
        ...

    async def close(self) -> None: ...


class HttpTransport:
    """HTTP/1.1 to one provider: its pool, its address, its TLS. `connect` replaces the address and nothing else; a
    certificate signed by the one in `not_by` (PEM) is refused: it is our own proxy's, and the call would run in circles.
    """

    def __init__(self, base_url: str, *, connect: tuple[str, int] | None = None, not_by: bytes = b"") -> None:
        url = urlsplit(base_url)
        host = (url.hostname or "").rstrip(".")  # certificates name hosts without the root's dot
        self._host = host if host.isascii() else host.encode("idna").decode("ascii")
        self._tls = roots_and_more() if url.scheme == "https" else None
        self._not_by = not_by
        usual = 443 if self._tls else 80
        port = url.port or usual
        self._address = connect or (self._host, port)
        name = f"[{self._host}]" if ":" in self._host else self._host
        self._start = f" HTTP/1.1\r\nhost: {name if port == usual else f'{name}:{port}'}\r\n"
        self._prefix = url.path.rstrip("/")
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._addresses: tuple[float, list[Any]] = (0.0, [])
        self._looking_up = asyncio.Lock()
        self._closed = False
        self._sweeper: asyncio.TimerHandle | None = None
        if self._tls is not None:
            self._tls.set_alpn_protocols(["http/1.1"])

    async def ask(self, request: WireRequest, timeouts: Timeouts) -> Upstream:
        """Send the request and wait for the head of the answer, `first_token` seconds at most."""
        head = self._head(request)
        started = clock.monotonic()
        while True:
            connection = self._kept(started)
            again = connection is not None and request.method in _SAFE
            if connection is None:
                connection = await self._connect(timeouts)
            try:
                answer = await connection.ask(
                    head, request.body, started, timeouts.first_token, timeouts.total,
                    is_head=request.method == "HEAD",
                )  # fmt: skip
                break
            except UpstreamError as failure:
                if not again or failure.reason != "reset":
                    raise
        if "content-encoding" in answer.headers:
            answer.unpack()
        return answer

    def _head(self, request: WireRequest) -> bytes:
        """The head of a question. Raises: UpstreamError for a path or header that would break its framing."""
        path = f"{self._prefix}{request.path}"
        if request.query:
            path = f"{path}?{request.query}"
        headers = request.headers
        body = request.body
        fields = request.lines or lines_of(headers)
        lines = len(headers) + 2
        if body or request.method in {"POST", "PUT", "PATCH"}:
            fields = f"{fields}content-length: {len(body)}\r\n"
            lines += 1
        head = f"{request.method} {path}{self._start}{fields}\r\n"
        if head.count("\n") != lines + 1 or head.count("\r") != lines + 1 or "\0" in head or " " in path:
            raise UpstreamError("reset", "The request has a line break or a blank where none may be.")
        try:
            return head.encode("ascii")
        except UnicodeEncodeError:
            raise UpstreamError("reset", "The request's head is not ASCII.") from None

    # -- the pool ----------------------------------------------------------------------------------------------

    def _kept(self, now: float) -> Connection | None:
        """A connection that is open and idle: the last one used, so that the others can go."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.alive:
                if now - connection.idle_since < _KEEP_S:
                    return connection
                connection.abort()
        return None

    def keep(self, connection: Connection) -> None:
        """It may be asked again."""
        if self._closed:
            connection.abort()
            return
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SPARE_S, self._sweep)

    def lost(self, connection: Connection) -> None:
        """It is closed."""
        self._open.discard(connection)

    def _sweep(self) -> None:
        """Close what nobody needed for a while."""
        self._sweeper = None
        now = clock.monotonic()
        kept = []
        left = len(self._idle)
        for connection in self._idle:  # the one that was not needed for longest comes first
            keep_s = _SPARE_S if left > _SPARES else _KEEP_S
            if connection.alive and now - connection.idle_since < keep_s:
                kept.append(connection)
            else:
                connection.abort()
                left -= 1
        self._idle[:] = kept
        if kept:
            self._sweeper = asyncio.get_running_loop().call_later(_SPARE_S, self._sweep)

    async def _connect(self, timeouts: Timeouts) -> Connection:
        """A new connection: name, address and TLS within the shortest limit. Raises: UpstreamError `connect`."""
        loop = asyncio.get_running_loop()
        connection = Connection(loop, self)
        try:
            async with asyncio.timeout(min(timeouts.connect, timeouts.first_token, timeouts.total)):
                sock = await aiohappyeyeballs.start_connection(
                    await self._resolve(loop), happy_eyeballs_delay=_EYEBALLS_S, interleave=1, loop=loop
                )
                try:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except OSError:
                    sock.close()
                    raise
                made, _ = await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
                if self._not_by and self._tls is not None:
                    _check_issuer(made.get_extra_info("ssl_object"), self._not_by)
        except BaseException as error:
            connection.abort()
            if not isinstance(error, OSError | ValueError | RuntimeError):
                raise  # cancelled
            error.__traceback__ = None  # aiohappyeyeballs keeps it in one of these frames: a circle
            self._addresses = (0.0, [])
            if isinstance(error, TimeoutError):
                raise UpstreamError("connect", "The provider did not accept a connection in time.") from error
            # SSLError is an OSError, a host that no IDN encoding takes a ValueError; uvloop has RuntimeErrors
            raise UpstreamError("connect", f"No connection to the provider: {_why(error)}.") from error
        if self._closed:
            connection.abort()
            raise UpstreamError("connect", "The pool of this provider was closed.")
        self._open.add(connection)
        return connection

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        """The provider's addresses; one look-up at a time, else a slow DNS server takes all threads of the process."""
        async with self._looking_up:
            until, found = self._addresses
            if clock.monotonic() >= until:
                host, port = self._address
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found = [(family, kind, proto, "", address) for family, kind, proto, _, address in infos]
                self._addresses = (clock.monotonic() + _DNS_S, found)
        return found

    async def close(self) -> None:
        """Close the pool; whoever still waits for an answer gets an error."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in tuple(self._open):
            connection.abort()
        self._open.clear()
        self._idle.clear()
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn


def roots_and_more() -> ssl.SSLContext:
    """TLS with the system's roots, and those of `SSL_CERT_FILE` besides: OpenSSL by itself takes the one or the other."""
    context = ssl.create_default_context()
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        usual = ssl.get_default_verify_paths()
        file, folder = Path(usual.openssl_cafile), Path(usual.openssl_capath)
        if file.is_file() or folder.is_dir():
            context.load_verify_locations(
                file if file.is_file() else None, folder if folder.is_dir() else None
            )
    return context


def _check_issuer(tls: ssl.SSLObject | None, not_by: bytes) -> None:
    """Raises: SSLError for a certificate that this one has signed."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    shown = tls.getpeercert(binary_form=True) if tls is not None else None
    if not shown:
        return
    leaf = x509.load_der_x509_certificate(shown)
    with contextlib.suppress(ValueError, TypeError, InvalidSignature):  # somebody else has signed it
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(not_by))
        raise ssl.SSLError("the certificate is our own proxy's")


def _why(error: BaseException) -> str:
    """The class of an error, in words; its text may name hosts and paths."""
    if isinstance(error, ssl.SSLError):
        return "TLS certificate" if isinstance(error, ssl.SSLCertVerificationError) else "TLS"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    return type(error).__name__
