"""What a request is: its canonical path, the dialect that claims it, or the rule for what nobody knows.

A path is judged in its canonical form, and a path that has another form is refused: a guard and a provider that
read `/v1/%63hat/../chat` differently are a hole (reference: RFC 3986, 6.2.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from llmshield import registry
from llmshield.call import Operation
from llmshield.dialects import Dialect
from llmshield.errors import CallError

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/:@!$&'()*+,;=")
_HIDES_NOTHING = _SAFE - frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/")
_PATH_LIMIT = 2048
_QUERY_LIMIT = 4096


@lru_cache(1024)
def canonical_path(raw: bytes) -> str:
    """The decoded path of a request target, if that is its only reading.

    Raises: CallError `bad_request` for encoded letters or slashes, dot segments, doubled slashes, backslashes,
    control characters and everything else that another parser may read as another path.
    """
    if len(raw) > _PATH_LIMIT or not raw.startswith(b"/"):
        raise CallError("bad_request", "The request path is too long or does not start with a slash.")
    if b"%" in raw:
        plain = unquote_to_bytes(raw)
        # What had to be escaped may be (Gemini's `models/x%3Agenerate`); what hides a separator, or a letter
        # that needs no escape (RFC 3986, 6.2.2.2), may not.
        hidden = _escaped(raw)
        if b"%" in plain or not _HIDES_NOTHING.issuperset(hidden):
            raise CallError("bad_request", "The request path is not in its canonical form.")
        raw = plain
    if not _SAFE.issuperset(raw) or b"//" in raw:
        raise CallError("bad_request", "The request path is not in its canonical form.")
    path = raw.decode("ascii")
    if "/." in path and any(part in {".", ".."} for part in path.split("/")):
        raise CallError("bad_request", "The request path is not in its canonical form.")
    if ";" in path:
        raise CallError("bad_request", "The request path holds parameters.")
    return path


def checked_query(raw: bytes) -> str:
    """The query as text, to be passed on. Raises: CallError `bad_request` when it is too long or not ASCII."""
    if not raw:
        return ""
    if len(raw) > _QUERY_LIMIT or not raw.isascii() or any(c <= 0x20 or c == 0x7F for c in raw):
        raise CallError("bad_request", "The query is too long or holds characters that must be escaped.")
    return raw.decode("ascii")


def _escaped(raw: bytes) -> bytes:
    """The bytes that were written as %XX."""
    out = bytearray()
    at = raw.find(b"%")
    while at >= 0:
        out += unquote_to_bytes(raw[at : at + 3])
        at = raw.find(b"%", at + 3)
    return bytes(out)


class Dialects:
    """Every dialect of the room; asks each whether a request is its own."""

    def __init__(self, extra: Sequence[Dialect] = ()) -> None:
        found = [registry.find("dialect", name)() for name in registry.names("dialect")]
        self._all: tuple[Dialect, ...] = (*extra, *sorted(found, key=lambda dialect: dialect.name))
        self._by_name = {dialect.name: dialect for dialect in self._all}
        self._cache: dict[tuple[str, str], tuple[Dialect, Operation]] = {}

    def __getitem__(self, name: str) -> Dialect:
        return self._by_name[name]

    def find(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[Dialect, Operation] | None:
        """The dialect that claims this request and what is asked, or None."""
        key = (method, path)
        hit = self._cache.get(key)
        if hit is not None:
            return hit
        for dialect in self._all:
            operation = dialect.claims(method, path, headers)
            if operation is not None:
                # `/v1/models` is told apart by headers; only POST paths are the same for everybody
                if method == "POST" and len(self._cache) < 256:
                    self._cache[key] = (dialect, operation)
                return dialect, operation
        return None

    def methods(self, path: str, headers: Mapping[str, str]) -> list[str]:
        """The methods with which some dialect claims this path."""
        return [
            method
            for method in ("GET", "HEAD", "POST")
            if any(dialect.claims(method, path, headers) is not None for dialect in self._all)
        ]

    def for_errors(self, path: str, headers: Mapping[str, str]) -> Dialect:
        """The dialect in which a refusal of an unclaimed path is best understood, judged by its look."""
        if "anthropic-version" in headers or path.startswith(("/v1/messages", "/v1/complete")):
            return self._by_name["anthropic_messages"]
        if "x-goog-api-key" in headers or path.startswith("/v1beta") or ":" in path.rsplit("/", 1)[-1]:
            return self._by_name["gemini"]
        return self._by_name["openai_chat"]


def param_of(place: str) -> str | None:
    """A JSON pointer in the words of SDK errors."""
    out = ""
    for step in place.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        out += f"[{step}]" if step.isdigit() else f".{step}" if out else step
    return out or None
