"""The upstream HTTP client: one pool per provider, a deadline for each phase, nothing decompressed unbounded.

The interface is narrow (`Transport.ask`, `Upstream`) so that a leaner client can take aiohttp's place. What
goes wrong on the way is an UpstreamError with its reason; redirects are never followed (a key must not travel
to a host that the policy does not name), proxies and cookies of the environment are never used.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from llmshield import clock
from llmshield.compression import Decompressor, decompressor
from llmshield.errors import UpstreamError, WireError

if TYPE_CHECKING:
    from llmshield.dialects import WireRequest

_ONE_WRITE = 2**20
READ_LIMIT = 256 * 1024
"""Bytes of an answer that aiohttp buffers before it stops reading the socket: backpressure for slow clients."""
_LOOK_S = 0.5


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

    async def chunk(self) -> bytes:
        """The next bytes of the body, decompressed; b"" at its end. Raises: UpstreamError."""
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


class _FixedAddress(AbstractResolver):
    """Resolves every name to one address: `providers.X.connect` replaces the address, not the name in TLS."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        return [
            ResolveResult(
                hostname=host, host=str(info[4][0]), port=self._port, family=info[0], proto=0, flags=0
            )
            for info in infos
        ]

    async def close(self) -> None:
        """Nothing is held."""


class HttpTransport:
    """aiohttp, held to what a gateway needs. One per provider: its pool, its address, its TLS."""

    def __init__(self, base_url: str, *, connect: tuple[str, int] | None = None) -> None:
        self._base = base_url.rstrip("/")
        self._connect = connect
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    def _open(self) -> aiohttp.ClientSession:
        resolver = _FixedAddress(*self._connect) if self._connect else None
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=resolver,
            ttl_dns_cache=30,
            keepalive_timeout=30,
            ssl=ssl.create_default_context() if self._base.startswith("https:") else True,
        )
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("user-agent", "content-type", "accept", "accept-encoding"),
            read_bufsize=READ_LIMIT,
            timeout=aiohttp.ClientTimeout(),
        )

    def _url(self, path: str, query: str) -> URL:
        whole = f"{self._base}{path}?{query}" if query else f"{self._base}{path}"
        url = self._urls.get(whole)
        if url is None:
            url = URL(whole, encoded=True)
            if len(self._urls) < 256:  # Gemini has the model in its path: bounded, not evicted
                self._urls[whole] = url
        return url

    async def ask(self, request: WireRequest, timeouts: Timeouts) -> Upstream:
        """Send the request and wait for the head of the answer, `first_token` seconds at most."""
        session = self._session
        if session is None:
            session = self._session = self._open()
        started = clock.monotonic()
        timer = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect)
        try:
            async with asyncio.timeout(min(timeouts.first_token, timeouts.total)):
                response = await session.request(
                    request.method,
                    self._url(request.path, request.query),
                    headers=request.headers,
                    data=_payload(request.body),
                    allow_redirects=False,
                    timeout=timer,
                )
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise UpstreamError("connect", "The provider did not accept a connection in time.") from error
            raise UpstreamError(
                "first_token", f"No answer within {timeouts.first_token:g} s.", status=504
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise UpstreamError("connect", f"No connection to the provider: {_why(error)}.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamError("reset", f"The connection died before an answer: {_why(error)}.") from error
        return _HttpUpstream(response, started + timeouts.first_token, started + timeouts.total)

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class _HttpUpstream:
    """One answer of aiohttp, with a watchdog of one timer instead of one timeout object per read."""

    __slots__ = (
        "_content",
        "_decoder",
        "_ends",
        "_first_by",
        "_idle",
        "_last",
        "_reading",
        "_response",
        "_timer",
        "headers",
        "status",
    )

    def __init__(self, response: aiohttp.ClientResponse, first_by: float, ends: float) -> None:
        self._response = response
        self._content = response.content
        self.status = response.status
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in response.headers.items()}
        self._ends = ends
        self._first_by = min(first_by, ends)
        self._idle: float | None = None
        self._last = clock.monotonic()
        self._reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._decoder: Decompressor | None = None
        encoding = self.headers.get("content-encoding", "")
        if encoding and encoding.lower() != "identity":
            try:
                self._decoder = decompressor(encoding)
            except WireError as error:
                response.close()
                raise UpstreamError("malformed", str(error)) from error
        self._arm()

    def idle_after(self, seconds: float) -> None:
        self._idle = seconds
        self._last = clock.monotonic()
        if self._timer is not None:
            self._timer.cancel()
        self._arm()

    def _arm(self) -> None:
        now = clock.monotonic()
        until = self._first_by if self._idle is None else min(self._ends, self._last + self._idle)
        self._timer = asyncio.get_running_loop().call_later(max(0.0, until - now), self._tick)

    def _tick(self) -> None:
        now = clock.monotonic()
        if now >= self._ends:
            self._content.set_exception(UpstreamError("total", "The attempt's whole time is over."))
        elif not self._reading:  # it is the client that is slow: nobody waits for the provider
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._tick)
        elif self._idle is None and now >= self._first_by:
            self._content.set_exception(
                UpstreamError("first_token", "The answer began too late.", status=504)
            )
        elif self._idle is not None and now >= self._last + self._idle:
            self._content.set_exception(UpstreamError("idle", f"The answer stalled for {self._idle:g} s."))
        else:
            self._arm()

    async def chunk(self) -> bytes:
        while True:
            self._last = clock.monotonic()
            self._reading = True
            try:
                data = await self._content.readany()
            except UpstreamError:  # the watchdog's
                self.close()
                raise
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self.close()
                raise UpstreamError("reset", f"The connection died in the answer: {_why(error)}.") from error
            finally:
                self._reading = False
            if self._decoder is None or not data:
                if not data:
                    self._end()
                return data
            try:
                plain = self._decoder.feed(data)
            except WireError as error:
                self.close()
                raise UpstreamError("malformed", str(error)) from error
            if plain:
                return plain

    def _end(self) -> None:
        if self._decoder is not None and not self._decoder.complete:
            self.close()
            raise UpstreamError("truncated", "The compressed answer ends in the middle.")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._response.release()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._response.close()


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """A large body is written in pieces: aiohttp warns that one write of it would hold the loop."""
    if len(body) > _ONE_WRITE:
        return io.BytesIO(body)
    return body or None


def _why(error: BaseException) -> str:
    """The class of an error, in words; its text may name hosts and paths."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return "TLS certificate"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "unknown host"
    if isinstance(error, aiohttp.ClientConnectorError):
        return type(error.os_error).__name__
    return type(error).__name__
