"""Scrubbing of keys from every message that leaves: the lowest room, errors use it.

`redact` finds secrets in two ways. Those that llmshield holds are known by value: `remember` them when they are
loaded, and they are found in any text, also base64, hex, URL-encoded or reversed, and when only their first or
last 8 characters are quoted (providers do that in their 401s). Unknown ones (a client's own key in a provider's
error) are found by what stands before them and by their shape. Rule: this never raises and never logs, since it
runs inside the constructors of errors; when in doubt it hides too much. What a client sent along (its key, cookies,
keys in the URL) is held for the time of its call: `hold_of_call`.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from urllib.parse import quote, unquote_plus

import re2

from llmshield.one_line import one_line

HIDDEN = "[redacted]"

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

SHORTEST = 8
"""A known value below 8 characters is not searched for: `test` would hide every `test` in every message."""

_EDGE = 8
_TELLING = re.compile(r"(?s)(?=.*[0-9A-Z])(?=.*[A-Za-z])").match
"""An edge with a letter, and with a digit or a capital."""
_GROUP = 50
"""Known secrets for each compiled expression: 50 with a dozen spellings each stay well inside re2's memory."""

# A value that stands after one of these names is a secret whatever it looks like ...
_AFTER_HEADER = re2.compile(
    r"(?i)\b("
    + "|".join(sorted(SECRET_HEADERS))
    + r""")["']?\s*[:=]\s*["']?(?:(?:bearer|basic|token|digest)\s+)?([^\s"',}\]]+)"""
)
# ... the rest of a cookie line too, where more values follow ...
_COOKIES = re2.compile(r"(?i)\b((?:set-)?cookie[\"']?\s*[:=]\s*)([^\r\n]+)")
# ... and after one of these only if it looks like one: "token: expected a string" is a message of ours.
_AFTER_WORD = re2.compile(
    r"""(?i)(\b[a-z0-9_-]*(?:key|token|secret|passwd|password|passphrase|credentials?)["']?\s*[:=]\s*["']?|\b(?:bearer|basic)\s+|[?&;](?:key|sig|signature|code)=)([^\s"',;&}\])]{6,})"""
)
_URL_LOGIN = re2.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@\"'<>]*:[^/\s@\"'<>]+@")
_REFERENCE = re2.compile(r"[a-z0-9+]+://[^@]*")

# One look decides that a message is clean, which most are.
_SUSPECT = re2.compile(
    r"(?i)authorization|key|cookie|passw|passphrase|secret|token|credential|bearer|basic |[?&;](?:sig|signature|code)="
    r"|://[^/\s]*@|[a-z0-9_+/=%.-]{16,}"
)
# Names, ids and constants come again and again: those found clean are not searched twice.
_CLEAN_LENGTH = 64
_CLEAN_COUNT = 4096
_clean: set[str] = set()


class _Known:
    """The secrets that llmshield holds, and the expressions that find them."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.expressions: tuple[re2._Regexp, ...] | None = ()
        self.lock = threading.Lock()

    def compiled(self) -> tuple[re2._Regexp, ...]:
        """The expressions, made anew after a change."""
        expressions = self.expressions
        if expressions is None:
            with self.lock:
                values = sorted(self.values)
                groups = (values[at : at + _GROUP] for at in range(0, len(values), _GROUP))
                self.expressions = expressions = tuple(map(_expression, groups))
        return expressions


_known = _Known()


def remember(secret: str) -> None:
    """Hide this value, in all its spellings, in every message from now on; resolvers call it for each key.

    Values below 8 characters and short plain words (`ollama`, `anthropic`) are not remembered.
    """
    if len(secret) < SHORTEST or (secret.isalpha() and len(secret) < 12) or secret in _known.values:
        return
    with _known.lock:
        _known.values.add(secret)
        _known.expressions = None
    _clean.clear()


def forget(secret: str) -> None:
    """Stop looking for this value, when a key was rotated out and is worth nothing any more."""
    with _known.lock:
        _known.values.discard(secret)
        _known.expressions = None


def version() -> object:
    """Another object after a secret was learned or forgotten: what was found clean before has to be looked at again."""
    return _known.compiled()


class _OfCall:
    """What one client sends along; taken apart when the first text is looked at."""

    __slots__ = ("_edges", "_expression", "_headers", "_keys", "_query", "_values")

    def __init__(self, headers: Mapping[str, str], query: str) -> None:
        self._headers = headers
        self._query = query
        self._keys: tuple[str, ...] | None = None
        self._values: tuple[str, ...] | None = None
        self._edges: tuple[str, ...] = ()
        self._expression: re2._Regexp | None = None

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
            self._edges = tuple({part for value in found for part in (value, *_edges(value), *_coded(value))})
            self._values = tuple(found)  # last: another thread may ask
        return self._values

    def hide(self, message: str, *, thorough: bool) -> str:
        """The message without them: as they stand, or in every spelling."""
        if not self.values() or (not thorough and not any(map(message.__contains__, self._edges))):
            return message
        self._expression = self._expression or _expression(self.values())
        return _sub(self._expression, HIDDEN, message)


_SENDERS = 64  # clients whose secrets stay taken apart: each call of one would pay 10 us for it
_senders: dict[tuple[str | None, ...], _OfCall] = {}
_call: ContextVar[_OfCall | None] = ContextVar("llmshield_secrets_of_call", default=None)


def hold_of_call(headers: Mapping[str, str], query: str = "") -> None:
    """From now on, in this task and those it starts, hide what these headers (lower-case names) and this query say
    that is secret: keys, cookies, logins. They are taken apart when the first text is looked at: an answer's head."""
    sender = (query, *map(headers.get, SECRET_HEADERS))  # a frozenset's order is the same in one process
    held = _senders.get(sender)
    if held is None:
        if len(_senders) >= _SENDERS:
            _senders.clear()
        secret = {name: value for name, value in zip(SECRET_HEADERS, sender[1:], strict=True) if value}
        held = _senders[sender] = _OfCall(secret, query)
    _call.set(held)


def release_of_call() -> None:
    """The call is over."""
    _call.set(None)


def sender() -> object:
    """Whose secrets are hidden now: the same object in the calls of one client, None outside of calls."""
    return _call.get()


def redact_foreign(text: str) -> str:
    """As `redact`, for what somebody else wrote (a provider's error): what the client sent is looked for in every
    spelling as well."""
    held = _call.get()
    return redact(held.hide(text, thorough=True) if held is not None else text)


def shows_secret(text: str) -> bool:
    """Whether a text holds a secret that we know or that the client of this call sent: 2 us for 1,000 characters."""
    held = _call.get()
    if held is not None and held.hide(text, thorough=False) is not text:
        return True
    try:
        return any(expression.search(text) is not None for expression in _known.compiled())
    except UnicodeEncodeError:
        return redact(text) != text


def carries_key(text: str) -> bool:
    """Whether a text holds a key or login that the client of this call sent, as it stands or in other case (a header's
    name comes in lower case). Cookies are not looked for: their values may be plain words."""
    held = _call.get()
    keys = held.keys() if held is not None else ()
    return bool(keys) and any(map(text.lower().__contains__, keys))


def redact(message: str, *, also: Iterable[str] = ()) -> str:
    """The message with every secret replaced by `[redacted]`.

    `also` names values that are secret in this message only. Never raises.
    """
    held = _call.get()
    if held is not None:
        message = held.hide(message, thorough=False)
    if message in _clean and not also:
        return message
    known = _known.compiled()
    for secret in also:
        if len(secret) >= SHORTEST:
            message = _sub(_expression([secret]), HIDDEN, message)
    try:
        for expression in known:
            if expression.search(message) is not None:
                message = expression.sub(HIDDEN, message)
        if _SUSPECT.search(message) is None:
            return _note_clean(message, known)
    except UnicodeEncodeError:  # lone surrogates: re2 takes UTF-8 only
        return redact(message.encode("utf-8", "backslashreplace").decode("utf-8"))
    hidden = _redact_unknown(message)
    return hidden if hidden != message else _note_clean(message, known)


def redact_secret(value: str) -> str:
    """A secret for a list that people read: `****` and the last 4 characters, these only of 16 or more."""
    return "****" + (value[-4:] if len(value) >= 16 else "")


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers for a record: the values of SECRET_HEADERS hidden, the others redacted."""
    return {
        name: HIDDEN if name.lower() in SECRET_HEADERS else redact(value) for name, value in headers.items()
    }


def sanitize_error_message(text: str, limit: int = 500) -> str:
    """Somebody else's error text, fit for our logs, records and answers: redacted, one line, bounded."""
    return one_line(redact_foreign(text), limit)


def _note_clean(message: str, searched: object) -> str:
    """Remember that this is clean, unless a secret was added since it was searched."""
    if len(message) <= _CLEAN_LENGTH:
        if len(_clean) >= _CLEAN_COUNT:
            _clean.clear()
        _clean.add(message)
        if _known.expressions is not searched:
            _clean.discard(message)
    return message


def _redact_unknown(message: str) -> str:
    """Hide what looks like a secret that nobody told us about."""
    message = _COOKIES.sub(lambda m: m[1] + HIDDEN, message)
    message = _AFTER_HEADER.sub(_hide_value, message)
    message = _AFTER_WORD.sub(lambda m: _hide_value(m) if _looks_secret(m[2]) else m[0], message)
    message = _URL_LOGIN.sub(lambda m: f"{m[1]}{HIDDEN}@", message)
    from llmshield.secrets_patterns import find_secrets  # compiled on the first suspicious message

    for start, end, _ in reversed(find_secrets(message)):
        message = f"{message[:start]}{HIDDEN}{message[end:]}"
    return message


def _hide_value(match: re2._Match) -> str:
    """The match without its second group; a reference to a secret (`env://NAME`) is none."""
    value = match[2]
    if HIDDEN.startswith(value) or _REFERENCE.fullmatch(value) is not None:
        return str(match[0])
    start = match.start(2) - match.start()
    return f"{match[0][:start]}{HIDDEN}{match[0][start + len(value) :]}"


def _looks_secret(value: str) -> bool:
    """No ordinary word: a digit inside, or longer than words are."""
    return (len(value) >= 6 and any(char.isdigit() for char in value)) or len(value) >= 24


def _sub(expression: re2._Regexp, new: str, text: str) -> str:
    try:
        return expression.sub(new, text)
    except UnicodeEncodeError:
        return expression.sub(new, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _expression(secrets: Iterable[str]) -> re2._Regexp:
    """One expression for all spellings of these secrets, the longest first: the leftmost alternative wins."""
    spellings = {spelling for secret in secrets for spelling in _spellings(secret)}
    ordered = sorted(spellings, key=len, reverse=True)
    options = re2.Options()
    options.max_mem = 64 << 20
    options.log_errors = False
    return re2.compile("(?i)" + "|".join(re2.escape(spelling) for spelling in ordered), options)


def _spellings(secret: str) -> Iterable[str]:
    """The secret as it might turn up in a text."""
    raw = secret.encode("utf-8", "surrogatepass")
    yield secret.encode("utf-8", "backslashreplace").decode("utf-8")
    yield raw.hex(" ")
    yield "".join(f"%{byte:02x}" for byte in raw)
    quoted = quote(raw, safe="")
    if quoted != secret:
        yield quoted
        yield quote(raw)
    yield from _coded(secret)
    for spelled in (secret.replace("/", "\\/"), json.dumps(secret)[1:-1], html.escape(secret)):
        if spelled != secret:
            yield spelled.encode("utf-8", "backslashreplace").decode("utf-8")
    for edge in _edges(secret):
        yield edge
        yield edge[::-1]


def _coded(secret: str) -> Iterable[str]:
    """The spellings that cost nothing to make and to look for: 4 us for a key of 60 characters."""
    raw = secret.encode("utf-8", "surrogatepass")
    yield secret.encode("utf-8", "backslashreplace").decode("utf-8")[::-1]
    yield raw.hex()
    # Base64 of a text that contains the secret depends on where it starts, modulo 3. What both neighbours
    # have no part in is the same for every text: cut the ends that depend on them.
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + raw).rstrip(b"=").decode()
        start = (0, 2, 3)[before]
        tail = (before + len(raw)) % 3
        core = coded[start : len(coded) - (1 if tail else 0)]
        yield core
        if "+" in core or "/" in core:
            yield core.replace("+", "-").replace("/", "_")


def _edges(secret: str) -> Iterable[str]:
    """The first and last 8 characters, where they would tell something: `sk-proj-` and `Provider` are no secrets."""
    if len(secret) < 2 * _EDGE:
        return
    for edge in (secret[:_EDGE], secret[-_EDGE:]):
        if edge.isascii() and _TELLING(edge) is not None and not (edge.isalpha() and edge[1:].islower()):
            yield edge


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
