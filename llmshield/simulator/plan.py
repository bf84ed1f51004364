"""What is sent for one request, before anything touches a socket: a head and a list of steps.

Rule 1: a plan knows nothing of sockets and event loops; `server` and `asgi` play it.
Rule 2: steps may be endless, so they are an iterator, and whoever plays them pulls one at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Literal

Kind = Literal["start", "delta", "usage", "finish", "done", "other"]
Framing = Literal["length", "chunked", "close"]


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is sent for `seconds`."""

    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Hang:
    """Nothing more is ever sent; the connection stays open until the client leaves."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reset:
    """The connection ends with a TCP RST."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fin:
    """The connection ends with a FIN, whatever was still due. `half`: our sending side only."""

    half: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Wire:
    """Bytes for the socket as they are, outside the framing (broken chunk sizes, 1xx heads)."""

    data: bytes


Step = bytes | Pause | Hang | Reset | Fin | Wire


@dataclasses.dataclass(slots=True)
class Event:
    """One event of a stream: its JSON tree (or exact bytes), its name, and its part in the story.

    `raw` replaces everything, framing included. `kind` is what faults look at: `start` opens the
    reply or a block, `delta` carries text, `usage` is the chunk that exists for usage alone, `finish` carries
    the finish reason, `done` is the last one (`[DONE]`, `message_stop`, `response.completed`).
    """

    data: Any = None
    kind: Kind = "other"
    name: str | None = None
    raw: bytes | None = None


@dataclasses.dataclass(slots=True)
class Plan:
    """One HTTP answer. `before` is played ahead of the head; `length` overrides content-length."""

    status: int = 200
    headers: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    body: bytes | Iterable[Step] = b""
    framing: Framing = "length"
    length: int | None = None
    before: tuple[Step, ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()
    http10: bool = False

    def steps(self) -> Iterator[Step]:
        """The body as steps. The body of this moment: whoever wraps the steps puts the result in its place."""
        body = self.body
        if isinstance(body, bytes):
            return iter((body,) if body else ())
        return iter(body)

    def set_header(self, name: str, value: str) -> None:
        """Replace every header called `name`."""
        self.headers = [h for h in self.headers if h[0].lower() != name.lower()]
        self.headers.append((name, value))


def flat(plan: Plan) -> bytes:
    """The whole body of a plan as bytes; pauses and endings are lost."""
    return b"".join(step for step in plan.steps() if isinstance(step, bytes))
