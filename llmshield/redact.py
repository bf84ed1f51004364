"""Scrubbing of keys from every message that leaves: the lowest room, errors use it.

`redact` finds secrets in two ways. Those that llmshield holds are known by value: `remember` them when they are
loaded, and they are found in any text, also base64, hex, URL-encoded or reversed, and when only their first or
last 8 characters are quoted (providers do that in their 401s). Unknown ones (a client's own key in a provider's
error) are found by what stands before them and by their shape. Rule: this never raises and never logs, since it
runs inside the constructors of errors; when in doubt it hides too much. What a client sent along (its key, cookies,
keys in the URL) is held for the time of its call: `senders`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

import re2

from llmshield.one_line import one_line
from llmshield.senders import SECRET_HEADERS, held
from llmshield.spellings import HIDDEN, SHORTEST, expression, substitute

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
                self.expressions = expressions = tuple(map(expression, groups))
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


def redact_foreign(text: str) -> str:
    """As `redact`, for what somebody else wrote (a provider's error): what the client sent is looked for in every
    spelling as well."""
    sender = held()
    return redact(sender.hide(text, thorough=True) if sender is not None else text)


def shows_secret(text: str) -> bool:
    """Whether a text holds a secret that we know or that the client of this call sent: 2 us for 1,000 characters."""
    sender = held()
    if sender is not None and sender.hide(text, thorough=False) is not text:
        return True
    try:
        return any(secrets.search(text) is not None for secrets in _known.compiled())
    except UnicodeEncodeError:
        return redact(text) != text


def redact(message: str, *, also: Iterable[str] = ()) -> str:
    """The message with every secret replaced by `[redacted]`.

    `also` names values that are secret in this message only. Never raises.
    """
    sender = held()
    if sender is not None:
        message = sender.hide(message, thorough=False)
    if message in _clean and not also:
        return message
    known = _known.compiled()
    for secret in also:
        if len(secret) >= SHORTEST:
            message = substitute(expression([secret]), HIDDEN, message)
    try:
        for found in known:
            if found.search(message) is not None:
                message = found.sub(HIDDEN, message)
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
