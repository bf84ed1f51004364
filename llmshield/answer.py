"""One answer of a provider as it arrives: what is here of it, how long it may still take, and how it ended.

Rule: silence is measured while somebody waits for the provider; a slow client is no fault of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from llmshield import clock
from llmshield.compression import Decompressor, decompressor
from llmshield.errors import UpstreamError, WireError

if TYPE_CHECKING:
    from llmshield.connection import Connection

_LOOK_S = 0.5
"""How often it is looked again whether a slow client has begun to wait for the provider."""
_NO_BODY = frozenset({204, 304})


Take: TypeAlias = Callable[[bytes], bool]
"""Is offered bytes as they arrive, while somebody waits for them, and says whether it has done with them what was to be
done."""


class Answer:
    """One answer, of which at least the head is here when somebody gets to see it (`transport.Upstream`)."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_first_s",
        "_idle",
        "_last",
        "_total_by",
        "_waiter",
        "complete",
        "failure",
        "first_by",
        "headers",
        "is_head",
        "parts",
        "reading",
        "size",
        "status",
        "take",
    )

    def __init__(self, connection: Connection, first_by: float, total_by: float, first_s: float) -> None:
        self._connection: Connection = connection
        self._decoder: Decompressor | None = None
        self._first_s = first_s
        self._idle: float | None = None
        self._last = 0.0
        self._total_by = total_by
        self._waiter: asyncio.Future[None] | None = None
        self.complete = False
        self.failure: UpstreamError | None = None
        self.first_by = first_by if first_by < total_by else total_by
        self.headers: Mapping[str, str] = {}
        self.is_head = False
        self.parts: list[bytes] = []
        self.reading = False
        self.size = 0
        self.status = 0
        self.take: Take | None = None

    # -- for whoever reads it ----------------------------------------------------------------------------------

    def unpack(self) -> None:
        """Decompress what follows, if it is compressed. Raises: UpstreamError for a coding that is not known."""
        encoding = self.headers.get("content-encoding")
        if self.is_head or self.status in _NO_BODY:
            return  # it names the coding of a body that another question would get
        if encoding and encoding.lower() != "identity":
            try:
                self._decoder = decompressor(encoding)
            except WireError as error:
                self.close()
                raise UpstreamError("malformed", str(error)) from error

    async def chunk(self, take: Take | None = None) -> bytes:
        """The next bytes of the body, decompressed; b"" at its end. Raises: UpstreamError.

        While this waits, `take` is offered what arrives; this returns what it does not take.
        """
        while True:
            parts = self.parts
            if parts:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                parts.clear()
                self.size = 0
                self._connection.read_on(self)
                if self._decoder is None:
                    return data
                plain = self._plain(data)
                if plain:
                    return plain
            elif self.failure is not None:
                raise self.failure
            elif self.complete:
                if self._decoder is not None and not self._decoder.complete:
                    raise UpstreamError("truncated", "The compressed answer ends in the middle.")
                return b""
            else:
                if self._decoder is None:
                    self.take = take
                await self.wait()

    def rest(self) -> bytes | None:
        """What is left of the body, if all of it is here and needs no unpacking; else None."""
        if not self.complete or self.failure is not None or self._decoder is not None:
            return None
        data = b"".join(self.parts)
        self.parts.clear()
        self.size = 0
        self._connection.read_on(self)
        return data

    def _plain(self, data: bytes) -> bytes:
        assert self._decoder is not None
        try:
            return self._decoder.feed(data)
        except WireError as error:
            self.close()
            raise UpstreamError("malformed", str(error)) from error

    def idle_after(self, seconds: float) -> None:
        """The first token is here: from now on, silence longer than this is an error (reason `idle`)."""
        self._idle = seconds
        self._last = now = clock.monotonic()
        self._connection.watch(self, min(self._total_by, now + seconds))

    def close(self) -> None:
        """Let go of the answer; a body that was not read to its end closes the connection."""
        if not self.complete:
            self._connection.abort()

    # -- for its connection ------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Until something has come."""
        self._last = clock.monotonic()
        self.reading = True
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = self.take = None
            self.reading = False

    def offer(self) -> None:
        """Some of the body has come: it is for `take` if that takes it, else for whoever waits."""
        parts, take = self.parts, self.take
        if not parts or take is None:
            return
        if take(parts[0] if len(parts) == 1 else b"".join(parts)):
            parts.clear()
            self.size = 0
            self._last = clock.monotonic()
        else:
            self.wake()

    def wake(self) -> None:
        """Something has come that is for whoever waits."""
        self.take = None
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, failure: UpstreamError) -> None:
        """Nothing more will come."""
        self.failure = failure
        self.wake()

    def late(self, now: float) -> UpstreamError | None:
        """What is wrong with the time, if anything is."""
        if now >= self._total_by and self.status:
            return UpstreamError("total", "The attempt's whole time is over.")
        if self._idle is None and now >= self.first_by and (self.reading or not self.status):
            if self.status:
                return UpstreamError("first_token", "The answer began too late.")
            return UpstreamError("first_token", f"No answer within {self._first_s:g} s.")
        if self._idle is not None and self.reading and now >= self._last + self._idle:
            return UpstreamError("idle", f"The answer stalled for {self._idle:g} s.")
        return None

    def next_look(self, now: float) -> float:
        """When to look at the time again."""
        due = self.first_by if self._idle is None else self._last + self._idle
        return min(self._total_by, max(due, now + (0.01 if self.reading else _LOOK_S)))
