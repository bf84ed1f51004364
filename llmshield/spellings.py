"""How a secret might turn up in a text: as it stands, encoded, escaped, reversed, or quoted by its ends."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

import re2

HIDDEN = "[redacted]"
"""What stands in the place of a secret."""

SHORTEST = 8
"""A known value below 8 characters is not searched for: `test` would hide every `test` in every message."""
_EDGE = 8
_TELLING = re.compile(r"(?s)(?=.*[0-9A-Z])(?=.*[A-Za-z])").match
"""An edge with a letter, and with a digit or a capital."""


def substitute(expression: re2._Regexp, new: str, text: str) -> str:
    """`text` with `new` for every match; a lone surrogate is escaped first, which re2 can't read."""
    try:
        return expression.sub(new, text)
    except UnicodeEncodeError:
        return expression.sub(new, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def expression(secrets: Iterable[str]) -> re2._Regexp:
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
    yield from coded(secret)
    for spelled in (secret.replace("/", "\\/"), json.dumps(secret)[1:-1], html.escape(secret)):
        if spelled != secret:
            yield spelled.encode("utf-8", "backslashreplace").decode("utf-8")
    for edge in edges(secret):
        yield edge
        yield edge[::-1]


def coded(secret: str) -> Iterable[str]:
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


def edges(secret: str) -> Iterable[str]:
    """The first and last 8 characters, where they would tell something: `sk-proj-` and `Provider` are no secrets."""
    if len(secret) < 2 * _EDGE:
        return
    for edge in (secret[:_EDGE], secret[-_EDGE:]):
        if edge.isascii() and _TELLING(edge) is not None and not (edge.isalpha() and edge[1:].islower()):
            yield edge
