"""What a tier and an address may, made into the windows and places of one caller.

Everything here is decided when the policy is read or when a caller comes for the first time; a call looks its rules
up and adds nothing but its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from llmshield.addresses import network_of
from llmshield.call import Call
from llmshield.policy import Rate
from llmshield.policy.tenants import Queue
from llmshield.stores import Seat, Window

ANONYMOUS = "anonymous"
"""The tenant of those who bring no key: each address is a caller of its own."""

_MOST_KNOWN = 4096
"""Callers whose rules are kept ready: 6 MB."""

_NO_RATES: tuple[Rate, ...] = ()


@dataclass(slots=True, frozen=True)
class Limits:
    """What a tier (or an address) allows."""

    requests: tuple[Rate, ...] = ()
    tokens: tuple[Rate, ...] = ()
    concurrent: int | None = None
    queue: Queue | None = None

    @classmethod
    def of(cls, rates: Sequence[Rate], concurrent: int | None, queue: Queue | None = None) -> Limits:
        """Of limits over the same time the lowest: each window is counted once."""
        lowest: dict[tuple[str, int], Rate] = {}
        for rate in rates:
            known = lowest.setdefault((rate.unit, rate.seconds), rate)
            if rate.limit < known.limit:
                lowest[rate.unit, rate.seconds] = rate
        kept = tuple(lowest.values())
        return cls(
            tuple(rate for rate in kept if rate.unit == "requests"),
            tuple(rate for rate in kept if rate.unit == "tokens"),
            concurrent,
            queue if concurrent is not None else None,
        )

    def shared(self, share: float) -> Limits:
        """This share of it, at least one of each."""
        return Limits(
            tuple(_part(rate, share) for rate in self.requests),
            tuple(_part(rate, share) for rate in self.tokens),
            None if self.concurrent is None else max(1, int(self.concurrent * share)),
            self.queue,
        )

    def __bool__(self) -> bool:
        return bool(self.requests or self.tokens or self.concurrent)


class Rules:
    """All that holds for one caller, over its tier and its address.

    `names` are the windows' names in headers, `policy` is the whole RateLimit-Policy. `line` is the key of the
    place that calls may wait for, with `queue`; `smallest` the lowest limit in tokens.
    """

    __slots__ = (
        "line",
        "names",
        "places",
        "policy",
        "queue",
        "requests",
        "smallest",
        "token_names",
        "tokens",
    )

    def __init__(self, parts: Sequence[tuple[str, Limits, str]]) -> None:
        requests, tokens, places = list[Window](), list[Window](), list[tuple[str, int]]()
        self.line, self.queue = "", None
        for who, limits, prefix in parts:
            requests += [Window(who, rate.limit, rate.seconds) for rate in limits.requests]
            tokens += [Window(f"tokens:{who}", rate.limit, rate.seconds) for rate in limits.tokens]
            if limits.concurrent is not None:
                places.append((who, limits.concurrent))
                if limits.queue is not None and not prefix:
                    self.line, self.queue = who, limits.queue
        self.requests = tuple(requests)
        self.tokens = tuple(tokens)
        self.places = tuple(places)
        self.smallest = min((window.limit for window in tokens), default=0)
        shown = tuple((prefix, limits.requests, limits.tokens) for _, limits, prefix in parts)
        self.names, self.token_names, self.policy = _words(shown)

    def seats(self, id: str, until_ms: int) -> tuple[Seat, ...]:
        """The places that a call of this id takes."""
        if len(self.places) == 1:
            key, limit = self.places[0]
            return (Seat(key, limit, id, until_ms),)
        return tuple([Seat(key, limit, id, until_ms) for key, limit in self.places])


class RuleBook:
    """The rules of every caller under one policy."""

    def __init__(self, tiers: Mapping[str | None, Limits], address: Limits) -> None:
        self._tiers = {name: limits for name, limits in tiers.items() if limits}
        self._address = address if address else None
        self._known: dict[tuple[str | None, str, str], Rules] = {}

    @property
    def counts_tokens(self) -> bool:
        """Whether any limit is in tokens."""
        every = [*self._tiers.values(), *([self._address] if self._address else [])]
        return any(limits.tokens for limits in every)

    def of(self, call: Call) -> Rules | None:
        """What holds for the caller of this call; None: nothing does."""
        tier = call.tier
        address = self._address
        if address is None and tier not in self._tiers:
            return None
        tenant = call.tenant
        key = (tier, tenant, call.client if address is not None or tenant == ANONYMOUS else "")
        rules = self._known.get(key)
        return self._made(key) if rules is None else rules

    def _made(self, key: tuple[str | None, str, str]) -> Rules:
        tier, tenant, client = key
        parts = list[tuple[str, Limits, str]]()
        limits = self._tiers.get(tier)
        if limits is not None:
            parts.append((_address(client) if tenant == ANONYMOUS else tenant_key(tenant), limits, ""))
        if self._address is not None:
            parts.append(("each:" + _address(client), self._address, "address-"))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        rules = self._known[key] = Rules(parts)
        return rules


PER: Mapping[int, str] = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}


def _address(client: str) -> str:
    return f"address:{network_of(client)}"


def tenant_key(name: str) -> str:
    """Where a tenant's calls are counted."""
    return f"tenant:{quote(name, safe='', errors='replace')}"


def _part(rate: Rate, share: float) -> Rate:
    return Rate(max(1, int(rate.limit * share)), rate.seconds, rate.unit)


@lru_cache(maxsize=256)
def _words(
    parts: tuple[tuple[str, tuple[Rate, ...], tuple[Rate, ...]], ...],
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Names of the windows, of those in tokens, and the RateLimit-Policy of all: the same for all of a tier.

    `qu`, the quota unit, is "requests" where it is left out (draft-ietf-httpapi-ratelimit-headers-11, 2.1.3).
    """
    names, token_names, policies = list[str](), list[str](), list[str]()
    for prefix, requests, tokens in parts:
        for rate in requests:
            names.append(f'"{prefix}{PER[rate.seconds]}"')
            policies.append(f"{names[-1]};q={rate.limit};w={rate.seconds}")
        for rate in tokens:
            token_names.append(f'"{prefix}{PER[rate.seconds]}-tokens"')
            policies.append(f'{token_names[-1]};q={rate.limit};qu="tokens";w={rate.seconds}')
    return tuple(names), tuple(token_names), ", ".join(policies)
