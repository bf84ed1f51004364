"""What the client of a call sends that is secret (its key, cookies, logins, keys in the URL), held while its call lasts.

The secrets of 64 clients stay taken apart, in memory only: each call of one would pay 10 us for it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from urllib.parse import unquote_plus

import re2

from llmshield.spellings import HIDDEN, SHORTEST, coded, edges, expression, substitute

SECRET_HEADERS = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "ocp-apim-subscription-key",
        "proxy-authorization",
        "set-cookie",
        "x-amz-security-token",
        "x-api-key",
        "x-auth-token",
        "x-goog-api-key",
        "x-llmshield-key",
    }
)
"""Header names (lower-case) whose values never appear anywhere."""

_KEY_HEADERS = tuple(SECRET_HEADERS - {"cookie", "set-cookie"})

_SECRET_PARAMETERS = frozenset(
    {
        "access_token",
        "api_key",
        "apikey",
        "auth",
        "code",
        "key",
        "password",
        "secret",
        "sig",
        "signature",
        "token",
    }
)

_SENDERS = 64


class Sender:
    """The secrets that one client sends along; taken apart when the first text is looked at."""

    __slots__ = ("_edges", "_expression", "_headers", "_keys", "_query", "_values", "clean")

    def __init__(self, headers: Mapping[str, str], query: str) -> None:
        self._headers = headers
        self._query = query
        self._keys: tuple[str, ...] | None = None
        self._values: tuple[str, ...] | None = None
        self._edges: tuple[str, ...] = ()
        self._expression: re2._Regexp | None = None
        self.clean: dict[tuple[str, ...], object] = {}
        """Names of answers' headers that showed no secret -> the secrets that we held when they were looked at."""

    def keys(self) -> tuple[str, ...]:
        """The keys and logins among them, in lower case."""
        if self._keys is None:
            found = {value.lower() for value in _sent(self._headers, self._query) if len(value) >= SHORTEST}
            self._keys = tuple(found)
        return self._keys

    def values(self) -> tuple[str, ...]:
        """The secrets of this call."""
        if self._values is None:
            sent = (*_sent(self._headers, self._query), *_cookies(self._headers))
            found = {value for value in sent if len(value) >= SHORTEST}
            self._edges = tuple({part for value in found for part in (value, *edges(value), *coded(value))})
            self._values = tuple(found)  # last: another thread may ask
        return self._values

    def hide(self, message: str, *, thorough: bool) -> str:
        """The message without them: as they stand, or in every spelling."""
        if not self.values() or (not thorough and not any(map(message.__contains__, self._edges))):
            return message
        self._expression = self._expression or expression(self.values())
        return substitute(self._expression, HIDDEN, message)


_senders: dict[tuple[str | None, ...], Sender] = {}
_held: ContextVar[Sender | None] = ContextVar("llmshield_secrets_of_call", default=None)


def hold(headers: Mapping[str, str], query: str = "") -> Sender:
    """From now on, in this task and those it starts, hide what these headers (lower-case names) and this query say
    that is secret."""
    sent = (query, *map(headers.get, SECRET_HEADERS))  # a frozenset's order is the same in one process
    sender = _senders.get(sent)
    if sender is None:
        if len(_senders) >= _SENDERS:
            _senders.clear()
        secret = {name: value for name, value in zip(SECRET_HEADERS, sent[1:], strict=True) if value}
        sender = _senders[sent] = Sender(secret, query)
    _held.set(sender)
    return sender


def hold_again(sender: Sender) -> None:
    """The same, for a client whose head came before."""
    _held.set(sender)


def release() -> None:
    """The call is over."""
    _held.set(None)


def held() -> Sender | None:
    """Whose secrets are hidden now; None outside of calls."""
    return _held.get()


def carries_key(text: str) -> bool:
    """Whether a text holds a key or login that the client of this call sent, as it stands or in other case (a header's
    name comes in lower case). Cookies are not looked for: their values may be plain words."""
    sender = _held.get()
    keys = sender.keys() if sender is not None else ()
    return bool(keys) and any(map(text.lower().__contains__, keys))


def _cookies(headers: Mapping[str, str]) -> list[str]:
    """The values of the cookies in a request's head."""
    pairs = f"{headers.get('cookie', '')};{headers.get('set-cookie', '')}"
    return [pair.partition("=")[2].strip() for pair in pairs.split(";")]


def _sent(headers: Mapping[str, str], query: str) -> Iterable[str]:
    """Every key and login that a request's head holds."""
    for name in _KEY_HEADERS:
        scheme, blank, rest = headers.get(name, "").partition(" ")
        yield rest.strip() if blank else scheme
        if scheme.lower() == "basic":
            try:
                yield base64.b64decode(rest, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                pass
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        if unquote_plus(name).lower().lstrip("$") in _SECRET_PARAMETERS:
            yield value
            yield unquote_plus(value)
