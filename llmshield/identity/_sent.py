"""The one key that a request carries, wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote_plus, unquote_to_bytes

from llmshield import senders
from llmshield.errors import CallError

KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
_BEARER = ("Bearer ", "bearer ")
LONGEST = 16 * 1024
"""Characters of a key; tokens with many groups in them reach 8 KiB (nginx's limit for one header)."""


def one_key(headers: Mapping[str, str], query: str) -> str | None:
    """The one key that this request carries, one character for each of its bytes.

    Raises: CallError `bad_request` when it carries two different ones, or one of impossible length.
    """
    found: str | None = None
    authorization = headers.get("authorization")
    if authorization is not None:
        found = _bearer(authorization)
    for name in KEY_HEADERS:
        value = headers.get(name)
        if value:
            if found is not None and value != found:
                raise _two()
            found = value
    if query and ("key=" in query.lower() or "%" in query):
        for pair in query.split("&"):
            name, _, value = pair.partition("=")
            if value and is_key_name(name):
                value = unquote_to_bytes(value.replace("+", " ")).decode("latin-1")
                if found is not None and value != found:
                    raise _two()
                found = value
    if found is not None and len(found) > LONGEST:
        raise CallError("bad_request", f"The API key is longer than {LONGEST} characters.")
    return found


def as_bearer(headers: Mapping[str, str], key: str) -> dict[str, str]:
    """The `authorization` in which a client sent this key, or nothing when it came in another way. A token of a
    login is no `x-api-key`, and only the client knows which of them it has."""
    return {"authorization": f"Bearer {key}"} if _bearer(headers.get("authorization", "")) == key else {}


def is_key_name(name: str) -> bool:
    """Whether this name in a query carries the key, however it is spelled: `%6bey` is `key`, and so is Google's
    `$key`."""
    return unquote_plus(name).lstrip("$").lower() == "key"


def without_key(query: str) -> str:
    """The raw query without the key, under whatever name it stands there (`senders` knows it)."""
    if not query:
        return query
    pairs = [pair for pair in query.split("&") if not is_key_name(pair.partition("=")[0])]
    if senders.carries_key(unquote_plus(query)):
        pairs = [pair for pair in pairs if not senders.carries_key(unquote_plus(pair))]
    return "&".join(pairs)


def carries_key(name: bytes, value: bytes) -> bool:
    """Whether a raw header (its name in lower case) is one that a key comes in with; a login of another scheme is not."""
    return name.decode("latin-1") in KEY_HEADERS or (
        name == b"authorization" and value[:7].lower() == b"bearer "
    )


def _bearer(authorization: str) -> str | None:
    if authorization[:7] in _BEARER or authorization[:7].lower() == "bearer ":
        return authorization[7:].strip() or None
    return None


def _two() -> CallError:
    return CallError("bad_request", "Two different API keys were sent at once; send one.")
