"""In which order the targets of a route are asked, by its `strategy`. Each order says why."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from llmshield.call import Call
from llmshield.policy import Policy, TargetShape
from llmshield.policy import Route as Rule
from llmshield.prices import Bound, Prices, Quote
from llmshield.verdicts import Route
from llmshield_plugins.failover.complexity import QUALITIES, quality_of
from llmshield_plugins.failover.statistics import Statistics

_EXPLORE = 0.05
"""Share of calls for which `fastest` asks somebody else first: who is slow today may be fast tomorrow."""
_BYTES_PER_TOKEN = 4
_ANSWER_TOKENS = 500
"""Length of an answer that has no bound, for comparing prices."""

Ordered = tuple[list[TargetShape], str]


class Ordering:
    """Orders targets. `statistics` are of this process, `prices` the policy's."""

    def __init__(self, policy: Policy, prices: Prices, statistics: Statistics) -> None:
        self._policy = policy
        self._prices = prices
        self._extra = 0.0
        """Calls that may still be hedged: each call adds its share."""
        self._statistics = statistics
        self._by_strategy: dict[str, Callable[[Call, list[TargetShape]], Ordered]] = {
            "weighted": self._weighted,
            "fastest": self._fastest,
            "cheapest": self._cheapest,
            "by_complexity": self._by_complexity,
        }

    def order(self, call: Call, rule: Rule) -> Route | None:
        """The rule's targets in the order of its strategy, those of other regions left out; None where that is what
        is written."""
        way = self._by_strategy.get(rule.strategy)
        targets, why = list(rule.targets), "as written"
        if rule.regions is not None:
            targets = [shape for shape in targets if self._region(shape) in rule.regions]
            if not targets:
                why = f"nobody in {', '.join(rule.regions)}"
        if way is None:
            if len(targets) == len(rule.targets):
                return None
        elif targets:
            targets, why = way(call, targets)
        return Route(tuple(shape.target for shape in targets), why=f"{rule.strategy}: {why}")

    def _region(self, shape: TargetShape) -> str | None:
        known = self._policy.providers.get(shape.provider)
        return known.region if known is not None else None

    def hedged(self, call: Call, rule: Rule, route: Route) -> Route | None:
        """The same route with a second target that is asked if the first has not begun after a while; None where
        the rule asks for none, the first's pace is not known yet, or the extra cost is used up."""
        hedge = rule.hedge
        if hedge is None or len(route.targets) < 2:
            return None
        self._extra = min(10.0, self._extra + hedge.max_extra_cost)
        if hedge.share is not None:
            after = self._statistics.first_token_s(route.targets[0], call, hedge.share)
        else:
            after = hedge.after_s
        if after is None or self._extra < 1.0:
            return None
        return Route(
            route.targets,
            mode="hedge",
            after=after,
            why=f"{route.why}; a second one after {after:.2f} s",
            at_hedge=self._spend,
        )

    def _spend(self) -> bool:
        """A second target is to be asked: whether it may, now that others may have been asked meanwhile."""
        if self._extra < 1.0:
            return False
        self._extra -= 1.0
        return True

    def _weighted(self, call: Call, targets: list[TargetShape]) -> Ordered:
        """By chance, as the weights say; the same caller always has the same luck (a canary that flickers is a bad
        experience, and no test). The rest follows as it is written."""
        who = "\0".join((call.tenant, call.key_id or "", "" if call.key_id else call.client))
        point = (
            int.from_bytes(hashlib.blake2b(who.encode("utf-8", "replace"), digest_size=8).digest(), "big")
            / 2**64
        )
        total = sum(shape.weight for shape in targets)
        reached = 0
        for shape in targets:
            reached += shape.weight
            if point * total < reached:
                rest = sorted(
                    (each for each in targets if each is not shape), key=lambda each: not each.weight
                )
                return [shape, *rest], f"{_name(shape)} has {shape.weight} of {total}"
        return targets, "no weights"

    def _fastest(self, call: Call, targets: list[TargetShape]) -> Ordered:
        """By the expected time of an answer; who was never asked comes first, now and then somebody else does."""
        paces = {id(shape): self._statistics.pace(shape.target, call) for shape in targets}

        def key(shape: TargetShape) -> float:
            pace = paces[id(shape)]
            return pace.expected_s if pace is not None else -1.0

        ordered = sorted(targets, key=key)
        if len(ordered) > 1 and random.random() < _EXPLORE:  # noqa: S311  spreading load, not keeping secrets
            other = random.randrange(1, len(ordered))  # noqa: S311
            ordered.insert(0, ordered.pop(other))
            return ordered, f"{_name(ordered[0])} is tried for a change"
        pace = paces[id(ordered[0])]
        known = (
            "has not been asked yet"
            if pace is None
            else f"takes {pace.expected_s:.2f} s, {pace.first_s:.2f} s to begin"
        )
        return ordered, f"{_name(ordered[0])} {known}"

    def _cheapest(self, call: Call, targets: list[TargetShape]) -> Ordered:
        """By the price of this very call at each target; one without a known price comes last."""
        size = sum(len(text.value) for text in call.texts)
        bound = Bound(input=max(1, size // _BYTES_PER_TOKEN), choices=call.choices)
        costs: dict[int, int | None] = {}
        for shape in targets:
            known = self._policy.providers.get(shape.provider)
            family = (known.dialect if known is not None else None) or call.family
            price = self._prices.price(shape.provider, family, shape.model or call.model)
            costs[id(shape)] = (
                Quote(price, bound).worst_case(call.output_bound or _ANSWER_TOKENS)
                if price is not None
                else None
            )
        ordered = sorted(targets, key=lambda shape: (costs[id(shape)] is None, costs[id(shape)] or 0))
        first = costs[id(ordered[0])]
        told = (
            "nobody has a known price"
            if first is None
            else f"{_name(ordered[0])} costs about {first / 10**12:.6f} USD"
        )
        return ordered, told

    def _by_complexity(self, call: Call, targets: list[TargetShape]) -> Ordered:
        """The quality that the call needs, then better ones, then lesser ones."""
        quality, why = quality_of(call)
        need = QUALITIES.index(quality)

        def distance(shape: TargetShape) -> int:
            has = QUALITIES.index(shape.quality or "medium")
            return has - need if has >= need else 10 + need - has

        return sorted(targets, key=distance), f"{quality} ({why})"


def _name(shape: TargetShape) -> str:
    return f"{shape.provider}/{shape.model}" if shape.model else shape.provider
