"""What Anthropic's and Google's dialects share: queries without keys, error headers, counts, inline documents."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any
from urllib.parse import unquote_plus

from llmshield.call import Call, Path, Role
from llmshield.dialects._tree import DEPTH_CEILING, add_text, seal_base64
from llmshield.errors import WireError

MAX_TOKENS = 10**9
"""A larger count is nonsense: two orders of magnitude above any context window."""

ERROR_BODY = 65_536
"""Bytes of a provider's error that are kept; a load balancer's page needs no more."""

_CREDENTIALS = frozenset(("key", "access_token", "oauth_token", "api_key", "apikey"))

_KEPT = ("retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-request-id")


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of a provider's error that a client may need; the others may name organisations or set cookies."""
    return {name: headers[name] for name in _KEPT if name in headers}


def without_credentials(query: str) -> str:
    """The raw query without parameters that carry a key; Google also takes each name with a `$` before it."""
    if not query:
        return ""
    return "&".join(
        part
        for part in query.split("&")
        if part and unquote_plus(part.partition("=")[0]).strip().lstrip("$").lower() not in _CREDENTIALS
    )


def folded(names: Iterable[str]) -> frozenset[str]:
    """The names without their case, for `refuse_twins`."""
    return frozenset(name.casefold() for name in names)


def refuse_twins(name: str, known: Container[str]) -> None:
    """Raises: WireError for an unknown `Max_Tokens` where `max_tokens` is known (`known` are `folded` names): a
    server that reads names without case (Go's JSON reader does, the Kelvin sign and the long s included) would take
    it for the field that was checked."""
    if name.casefold() in known:
        raise WireError(f"The body holds a field that differs from {name.casefold()!r} only in case.")


def too_deep(tree: Any) -> bool:
    """True when a reply is nested deeper than `DEPTH_CEILING`: walking and writing it would not end well."""
    level = [tree]
    for _ in range(DEPTH_CEILING + 1):
        found: list[Any] = []
        for node in level:
            for value in node.values() if type(node) is dict else node:
                if type(value) is dict or type(value) is list:
                    found.append(value)
        if not found:
            return False
        level = found
    return True


def may_be_deep(payload: bytes) -> bool:
    """True when there are enough brackets for `too_deep`: spares the small events of a stream the walk."""
    return len(payload) > DEPTH_CEILING and payload.count(b"[") + payload.count(b"{") > DEPTH_CEILING


def count(tree: Mapping[str, Any], name: str) -> tuple[int | None, bool]:
    """(tokens, lied): the count of this name in a usage object; None if it is absent or nonsense.

    Nonsense is whatever is no whole number from 0 to `MAX_TOKENS`; null counts as absent.
    """
    value = tree.get(name)
    if value is None:
        return None, False
    if type(value) is float and value.is_integer():  # 12.0, as some JavaScript upstreams write it
        value = int(value)
    if type(value) is int and 0 <= value <= MAX_TOKENS:
        return value, False
    return None, True


def seal_data(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """`holder[key]` is base64 of a document: what holds text becomes a Text; what is no base64 at all as well.

    Google also reads the URL alphabet, without padding; line ends are cut out. Between blanks may be words: `text_of` tells.
    """
    raw: str = holder[key]
    data = raw
    if "-" in data or "_" in data:
        data = data.replace("-", "+").replace("_", "/")
    data = data.replace("\n", "").replace("\r", "")
    if len(data) % 4 and data[:5] != "data:":
        data += "=" * (-len(data) % 4)
    if data is not raw:
        holder[key] = data
    if not seal_base64(call, role, holder, key, path):
        holder[key] = raw
        if not is_opaque(raw):
            add_text(call, role, holder, key, path)


def is_opaque(value: str) -> bool:
    """True for ASCII without blanks: base64, seals, tokens; whatever has a blank in it is taken for a text."""
    return " " not in value and value.isascii()
