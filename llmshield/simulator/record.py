"""What the simulator saw: one record per request, and the bill."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import parse_qsl

import orjson

_MISSING: Any = object()


@dataclasses.dataclass(slots=True, eq=False)
class Received:
    """One request as it came in, and what became of it.

    `headers` are in order, names in lower case; `path` is percent-encoded as sent, without the query. `at` is
    seconds on the monotonic clock. `usage` is (input, output) tokens as generated, whatever the reply claimed.
    `pieces` and `sent` count body pieces (events of a stream) and body bytes that were handed to the network.
    `disconnected`: the client left before the reply was complete; `finished`: the reply was played to its end.
    """

    number: int
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes
    at: float
    connection: int = 0
    client: str = ""
    api: str = ""
    model: str = ""
    stream: bool = False
    status: int = 0
    usage: tuple[int, int] = (0, 0)
    faults: tuple[str, ...] = ()
    pieces: int = 0
    sent: int = 0
    disconnected: bool = False
    finished: bool = False
    _json: Any = _MISSING

    @property
    def json(self) -> Any:
        """The parsed body; None if it is empty or no JSON."""
        if self._json is _MISSING:
            try:
                self._json = orjson.loads(self.body) if self.body else None
            except orjson.JSONDecodeError:
                self._json = None
        return self._json

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        name = name.lower()
        return next((value for key, value in self.headers if key == name), None)

    @property
    def params(self) -> dict[str, str]:
        """The query as a mapping."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def key(self) -> str | None:
        """The API key, wherever the dialect puts it."""
        for name in ("x-api-key", "x-goog-api-key", "api-key"):
            value = self.header(name)
            if value is not None:
                return value
        bearer = self.header("authorization")
        if bearer is not None:
            return bearer.removeprefix("Bearer ").strip()
        return self.params.get("key")

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON, for the control endpoint."""
        found = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("body", "_json")
        }
        return {**found, "json": self.json, "body": self.body.decode("utf-8", "replace")}
