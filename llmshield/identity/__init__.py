"""Who is calling: client key or trusted header -> tenant and tier; before any plugin, before the body is read.

The same restriction holds for every way a key may come in (`Authorization: Bearer`, `x-api-key`, `api-key`,
`x-goog-api-key`, `?key=`); two different keys at once are refused. Keys are looked up by the SHA-256 of the
whole key: no prefix, no scan, no comparison that could be timed. Addresses are believed from trusted hops only.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

from llmshield.errors import CallError
from llmshield.policy import Policy

KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key")
ANONYMOUS = "anonymous"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(slots=True, frozen=True)
class Caller:
    """Who is calling. `key` is the client's own credential, to be passed on or dropped, never shown; `key_id` the
    start of its hash where it is one of the policy's client keys (and must not travel on)."""

    tenant: str
    tier: str | None
    key_id: str | None
    key: str | None
    address: str

    def __repr__(self) -> str:
        return f"<Caller {self.tenant!r}>"


class Identity:
    """The policy's `identify`, `tenants` and `trusted_proxies`, compiled."""

    def __init__(self, policy: Policy) -> None:
        self._rules = policy.identify
        self._tenants = policy.tenants
        self._trusted = tuple(policy.trusted_proxies)
        self._by_hash = {
            digest.removeprefix("sha256:"): name
            for name, tenant in policy.tenants.items()
            for digest in tenant.keys
        }
        # Where a provider has no key of its own, a key that we do not know is the client's key for the provider.
        self._passes_keys = any(p.api_key is None for p in policy.providers.values()) or not policy.providers
        self._anonymous = ANONYMOUS in policy.tenants or not policy.tenants

    def identify(self, headers: Mapping[str, str], query: str, peer: str) -> Caller:
        """The caller of one request; `peer` is the address of the connection.

        Raises: CallError `unauthenticated` for a missing or unknown key, `bad_request` for two different keys.
        """
        key = _one_key(headers, query)
        address = self.address(headers, peer)
        digest, known = "", None
        if key is not None and self._by_hash:
            digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
            known = self._by_hash.get(digest)
        for rule in self._rules:
            if rule.kind == "virtual_key" and known is not None:
                return Caller(known, self._tenants[known].tier, digest[:12], None, address)
            if rule.kind == "header" and rule.name in headers and self.trusts(peer):
                name = headers[rule.name]
                if name not in self._tenants:
                    raise CallError(
                        "unauthenticated", f"The {rule.name} header names no tenant of the policy."
                    )
                return Caller(name, self._tenants[name].tier, None, None if known else key, address)
        if key is not None and known is None and self._by_hash and not self._passes_keys:
            raise CallError("unauthenticated", "The API key is not one of this gateway's client keys.")
        if not self._anonymous:
            raise CallError(
                "unauthenticated",
                "No API key was sent; this gateway requires one."
                if key is None
                else "The API key is not one of this gateway's client keys.",
            )
        tenant = self._tenants.get(ANONYMOUS)
        return Caller(ANONYMOUS, tenant.tier if tenant else None, None, None if known else key, address)

    def trusts(self, peer: str) -> bool:
        """Whether this address is one of the policy's `trusted_proxies`."""
        address = _address(peer)
        return address is not None and any(address in network for network in self._trusted)

    def address(self, headers: Mapping[str, str], peer: str) -> str:
        """The client's address: the last hop of X-Forwarded-For that no trusted proxy wrote for itself."""
        if not self._trusted or not self.trusts(peer):
            return peer
        here = peer
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
            address = _address(hop.strip())
            if address is None:
                break
            here = str(address)
            if not any(address in network for network in self._trusted):
                break
        return here


def as_bearer(headers: Mapping[str, str], key: str) -> dict[str, str]:
    """The `authorization` in which a client sent this key, or nothing when it came in another way. A token of a
    login is no `x-api-key`, and only the client knows which of them it has."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    return {"authorization": f"Bearer {key}"} if scheme.lower() == "bearer" and rest.strip() == key else {}


def _one_key(headers: Mapping[str, str], query: str) -> str | None:
    """The one key that this request carries. Raises: CallError when it carries two different ones."""
    found: str | None = None
    authorization = headers.get("authorization", "")
    scheme, _, rest = authorization.partition(" ")
    keys = [rest.strip()] if scheme.lower() == "bearer" and rest.strip() else []
    keys += [value for name in KEY_HEADERS if (value := headers.get(name))]
    if query and ("key=" in query.lower() or "%" in query):
        for pair in query.split("&"):
            name, _, value = pair.partition("=")
            if value and is_key_name(name):
                keys.append(unquote_plus(value))
    for key in keys:
        if found is not None and key != found:
            raise CallError("bad_request", "Two different API keys were sent at once; send one.")
        found = key
    return found


def is_key_name(name: str) -> bool:
    """Whether this name in a query carries the key, however it is spelled: `%6bey` is `key`, and so is Google's
    `$key`."""
    return unquote_plus(name).lstrip("$").lower() == "key"


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
