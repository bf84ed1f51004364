"""Which headers travel on: to the provider, and back to the client.

Unknown headers pass (`anthropic-beta` of next year must work); credentials, cookies, addresses, hop-by-hop
fields and our own `x-llmshield-*` never do, in either direction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from llmshield.redact import redact_foreign, shows_secret, version
from llmshield.senders import SECRET_HEADERS, carries_key, held
from llmshield.spellings import SHORTEST

_HOP_BY_HOP = frozenset(
    # RFC 9110, 7.6.1, and what older hops still send
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"}
)  # fmt: skip

_NOT_UPSTREAM = _HOP_BY_HOP | SECRET_HEADERS | {
    "proxy-authenticate", "host", "content-length", "content-encoding", "content-type", "accept-encoding", "expect", "via", "forwarded",
    "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "origin", "referer", "range", "if-none-match",
    "if-modified-since", "x-http-method-override", "x-original-url", "x-rewrite-url", "idempotency-key", "baggage",
    "remote-user", "x-remote-user", "x-original-forwarded-for", "x-cluster-client-ip", "x-envoy-external-address",
}  # fmt: skip

_TELLS_WHO = re.compile(
    r"(?:^|-)(?:auth|authorization|authenticated|token|secret|passwords?|passwd|credentials?|cookie|jwt|assertion|csrf|xsrf"
    r"|signature|apikey|api-key|access-key|client-cert|client-ip|clientip)(?:$|-)"
)
"""Words in the names of headers that say who the client is, to whoever is asked behind us: `x-auth-request-email` of a proxy,
`x-goog-iap-jwt-assertion`, `x-amz-security-token`. No header of a provider's API has one, besides those that carry its key
(compared with what the SDKs of OpenAI, Anthropic and Google send, November 2026)."""

_HEAD = 8 * 1024
_LINES = 90
"""Characters and lines of a provider's head that a client gets, beside our own: clients give up at 16 KiB (node), 8 KiB a
line (aiohttp), 100 lines (Python's http.client) or 100 KiB (h11, below httpx and the SDKs)."""

_NAMES = 16
"""Sets of headers' names that are known to be clean for one client."""

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
"""What a header's name is made of (RFC 9110, 5.6.2)."""

_ACCOUNT = frozenset(
    {"openai-organization", "openai-project", "x-goog-user-project", "anthropic-organization-id"}
)
"""They name the client's own account: they travel with the client's own key only."""

_REMAINING = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-tokens-remaining"),
)

_LIMITS = tuple(
    (
        form.format(unit=unit, what="remaining"),
        form.format(unit=unit, what="limit"),
        form.format(unit=unit, what="reset"),
    )
    for form in ("x-ratelimit-{what}-{unit}", "anthropic-ratelimit-{unit}-{what}")
    for unit in ("requests", "tokens")
)
"""Headers of one limit: what is left, of how much, until when."""

LISTABLE = _ACCOUNT | {"set-cookie"}
"""What a policy may let come back to clients (`providers.*.reply_headers`), and stays here otherwise."""

_NOT_BACK = _HOP_BY_HOP | SECRET_HEADERS | _ACCOUNT | {
    "content-length", "content-encoding", "content-type", "set-cookie2", "server", "date", "alt-svc", "via", "nel",
    "report-to", "strict-transport-security", "proxy-authenticate", "access-control-allow-origin",
    "access-control-expose-headers", "access-control-allow-credentials", "location", "refresh", "vary", "cache-control",
    "accept-ranges", "etag", "last-modified", "content-disposition",
}  # fmt: skip


def upstream_headers(headers: Mapping[str, str], *, own_key: bool) -> dict[str, str]:
    """The client's headers for a provider, lower-case names; `own_key` True when the client's key goes along.

    Whatever else shows that key, in its name or its value, stays here: 3 us a call."""
    nominated = _nominated(headers)
    out = {name: headers[name] for name in _going_up(tuple(headers))}
    said = "\n".join([*out, *out.values()])
    if nominated or not said.isascii():
        out = {name: value for name, value in out.items() if name not in nominated and value.isascii()}
    if not own_key:
        for name in _ACCOUNT:
            out.pop(name, None)
    if carries_key(said):  # once more, in a place where no key belongs
        out = {name: value for name, value in out.items() if not carries_key(f"{name}\n{value}")}
    out["content-type"] = "application/json"
    out["accept-encoding"] = "identity"
    return out


def client_headers(headers: Mapping[str, str], listed: frozenset[str] = frozenset()) -> dict[str, str]:
    """The provider's headers for the client, `listed` ones of `LISTABLE` too.

    One with a control character or another byte that no header may hold (RFC 9110, 5.5) is left out: the HTTP client
    reads answers leniently, the next hop might split there. So are those that make a head too long for clients.
    """
    nominated = _nominated(headers)
    out = {
        name: value
        for name, value in headers.items()
        if (_comes_back(name) or name in listed) and name not in nominated and value.isprintable()
    }
    if sum(map(len, out.values())) > _HEAD or len(out) > _LINES:
        _shorten(out)
    said = [value for value in out.values() if len(value) >= SHORTEST]  # shorter ones can't hold one
    if said and shows_secret("\n".join(said)):  # a provider that quotes the key, in a head of all places
        out = {name: redact_foreign(value) for name, value in out.items()}
    if _show_secret(tuple(out)):
        out = {name: value for name, value in out.items() if not shows_secret(name)}
    return out


def _show_secret(names: tuple[str, ...]) -> bool:
    """Whether names of headers show a secret: those of one provider are looked at once for each client."""
    sender, now = held(), version()
    if sender is not None and sender.clean.get(names) is now:
        return False
    if shows_secret("\n".join(names)):
        return True
    if sender is not None:
        if len(sender.clean) >= _NAMES:
            sender.clean.clear()
        sender.clean[names] = now
    return False


def _shorten(headers: dict[str, str]) -> None:
    """Leave out what makes a head too long: the longest."""
    left = _HEAD
    for line, name in enumerate(sorted(headers, key=lambda name: len(headers[name]))):
        left -= len(name) + len(headers[name])
        if left < 0 or line >= _LINES:
            del headers[name]


def add_own(headers: dict[str, str], own: Mapping[str, str]) -> None:
    """Add what plugins tell the client to an answer's headers. Of two limits, the provider's and ours, the client
    reads the one that leaves it less: all three figures of it."""
    for names in _LIMITS:
        if names[0] in headers and names[0] in own:
            theirs, ours = _count(headers[names[0]]), _count(own[names[0]])
            if theirs is not None and ours is not None and theirs < ours:
                own = {name: value for name, value in own.items() if name not in names}
    try:
        fit = _may_add(tuple(own)) and "".join(own.values()).isprintable()
    except TypeError:  # a value that is no text
        fit = False
    if not fit:  # a plugin's mistake must not break the answer, or say where it ends
        own = {
            name: value
            for name, value in own.items()
            if isinstance(name, str) and _may_add((name,)) and isinstance(value, str) and value.isprintable()
        }
    headers.update(own)


@lru_cache(256)
def _may_add(names: tuple[str, ...]) -> bool:
    """Whether all of these can be names of headers that are a plugin's to set: not what frames the answer, nor what we
    say of the call."""
    return all(
        isinstance(name, str) and name and name not in _OURS and _TOKEN.issuperset(name.lower())
        for name in names
    )


_OURS = _HOP_BY_HOP | {"content-length", "content-type", "content-encoding", "date"} | {
    f"x-llmshield-{name}" for name in (
        "request-id", "action", "policy", "provider", "attempts", "model", "cost", "overhead-ms", "degraded",
    )
}  # fmt: skip


def content_type(headers: Mapping[str, str], default: str) -> str:
    """The provider's content type for the client, if it is one that a header may hold."""
    value = headers.get("content-type")
    return value if value and value.isprintable() else default


@lru_cache(1024)
def name_of(raw: bytes) -> str:
    """A header's name as it came, in the form that all of ours have: text, in lower case."""
    return raw.decode("latin-1").lower()


@lru_cache(256)
def _going_up(names: tuple[str, ...]) -> tuple[str, ...]:
    """Of these names those that travel on; one client sends the same ones with each call."""
    return tuple([name for name in names if _goes_up(name)])


@lru_cache(1024)
def _goes_up(name: str) -> bool:
    return (
        name not in _NOT_UPSTREAM
        and not name.startswith(("x-llmshield-", "x-forwarded-", "cf-", "sec-"))
        and _TELLS_WHO.search(name) is None
        and "_" not in name  # `X_Forwarded_For` becomes `X-Forwarded-For` behind some servers
    )


@lru_cache(1024)
def _comes_back(name: str) -> bool:
    return (
        name not in _NOT_BACK
        and not name.startswith(("x-llmshield-", "cf-"))
        and bool(name)
        and _TOKEN.issuperset(name)
    )


def remaining(headers: Mapping[str, str]) -> tuple[int | None, int | None] | None:
    """Requests and tokens that the provider's rate limit leaves, by its headers; None where it says nothing.

    OpenAI: https://platform.openai.com/docs/guides/rate-limits; Anthropic: https://docs.anthropic.com/en/api/rate-limits.
    """
    for requests, tokens in _REMAINING:
        if requests in headers or tokens in headers:
            return _count(headers.get(requests)), _count(headers.get(tokens))
    return None


def _count(value: str | None) -> int | None:
    return (
        int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 16 else None
    )


def _nominated(headers: Mapping[str, str]) -> frozenset[str]:
    """Header names that `Connection` declares as hop-by-hop (RFC 9110, 7.6.1)."""
    value = headers.get("connection")
    if value is None or value in {"keep-alive", "close"}:
        return frozenset()
    return frozenset(name.strip().lower() for name in value.split(","))
