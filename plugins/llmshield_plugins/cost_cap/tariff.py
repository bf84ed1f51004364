"""What an attempt is priced at: its model at its provider, served as its body asks and as the reply says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from llmshield.call import Attempt, Usage
from llmshield.policy import Policy, Provider
from llmshield.prices import MTOK, ModelPrice, Prices, Rates
from llmshield_plugins.cost_cap.bounds import Options, clean_options, price_options
from llmshield_plugins.cost_cap.tools import with_fees

_APP = "app"
_USUAL = frozenset({"default", "standard", "auto", "global", "not_available"})
_PREPAID = (("service_tier", "priority"), ("service_tier", "batch"))
"""Anthropic's tiers that cost no more than the plain one: capacity that was bought beforehand, and half the price."""


class Plain(NamedTuple):
    """A price, and what a call of nothing but text costs at the most: rates for up to `tokens` input tokens, in
    pico-USD per million, and `fee` for the call itself, times a million."""

    price: ModelPrice
    into: int
    out: int
    tokens: int
    fee: int

    @classmethod
    def of(cls, price: ModelPrice) -> Plain:
        """The figures of a price. One with an hour-long cache depends on the body: they hold for no call."""
        into, out = price.worst(0)
        tokens = min((above for above, _ in price.tiers), default=2**62)
        return cls(
            price, into, out, tokens if price.rates.cache_write_1h is None else -1, price.per_call * MTOK
        )


class Tariff:
    """The prices under one policy. `assumed` is pico-USD for a token whose price nobody knows (None: unknown stays
    unknown), `tool_prices` what the policy says of server-side tools."""

    def __init__(
        self, policy: Policy, prices: Prices, assumed: int | None, tool_prices: Mapping[str, int]
    ) -> None:
        self._prices = prices
        self._families = {name: provider.dialect for name, provider in policy.providers.items()}
        self._usual = {name: _usual(provider) for name, provider in policy.providers.items()}
        self._paths = policy.server.paths
        self._tools = dict(tool_prices)
        app = policy.providers.get(_APP)
        self.prices_app = app is not None and app.prices is not None
        """Whether the policy puts a price on the wrapped app, which else pays its own bills."""
        self._assumed: Rates | None = None
        if assumed is not None:
            self._assumed = Rates(assumed * MTOK, assumed * MTOK)

    def of(self, attempt: Attempt) -> ModelPrice | None:
        """The price of this attempt as its body asks to be served, or None."""
        if attempt.call.operation == "passthrough":
            return self._of_path(attempt.call.path)
        return self._find(attempt, self._asked(attempt), plain=False)

    def plain(self, attempt: Attempt) -> Plain | None:
        """The price of an attempt whose body asks for nothing that changes it."""
        price = self._find(attempt, self._usual.get(attempt.provider, ()), plain=True)
        return Plain.of(price) if price is not None else None

    def as_served(self, attempt: Attempt, price: ModelPrice, usage: Usage) -> ModelPrice | None:
        """The price as the reply says it was served, None where that has none; `price` is what was reserved for."""
        asked = self._asked(attempt)
        if not asked and _as_usual(usage.served):
            return price
        served = clean_options(usage.served)
        if attempt.dialect == "anthropic_messages":
            served = tuple([option for option in served if option not in _PREPAID])
        if not asked and all(value in _USUAL for _, value in served):
            return price
        options = {**dict(asked), **{key: value for key, value in served if value not in _USUAL}}
        for key, value in served:
            if value in _USUAL:
                options.pop(key, None)
        found = self._find(attempt, tuple(options.items()), plain=False, assume=False)
        return price if found is None and price.source == "assumed" else found

    def _asked(self, attempt: Attempt) -> Options:
        """How the attempt is to be served: as its body says, else as its provider does."""
        return price_options(attempt.body, self._usual.get(attempt.provider, ()))

    def _find(
        self, attempt: Attempt, options: tuple[tuple[str, str], ...], *, plain: bool, assume: bool = True
    ) -> ModelPrice | None:
        call = attempt.call
        name = attempt.provider
        price = self._prices.price(name, self._families.get(name) or call.family, attempt.model, options)
        if price is None or (price.rates.output is None and call.operation != "embed"):
            if self._assumed is None or not assume:
                return None
            context = price.context if price is not None else None
            price = ModelPrice(self._assumed, context=context, source="assumed")
        if plain or not (attempt.unseen or self._tools):
            return price
        fees = with_fees(attempt, price, self._tools)
        return replace(price, tools=MappingProxyType(dict(fees)), per_tool=fees.get("web_search", 0))

    def _of_path(self, path: str) -> ModelPrice | None:
        rule = next((rule for rule in self._paths if rule.matches(path)), None)
        fee = rule.price if rule is not None else None
        return None if fee is None else ModelPrice(Rates(0, 0), per_call=fee)


def _usual(provider: Provider) -> Options:
    """How a provider serves calls that do not say so. A price of the policy is that of its own tier."""
    served = provider.served
    tier = served.service_tier if provider.prices is None else None
    given = {"service_tier": tier, "inference_geo": served.inference_geo}
    return clean_options((key, value) for key, value in given.items() if value is not None)


@lru_cache(256)
def _as_usual(served: Options) -> bool:
    """Whether a reply says that it was served in the way that has the usual price."""
    return all(value in _USUAL for _, value in clean_options(served))
