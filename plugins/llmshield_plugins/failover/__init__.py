"""failover: try again, ask the next provider, leave a failing one alone.

Walks a route's `to:` chain in order. A target is tried again where the route's `retry` says so (`attempts` counts
tries per target, the first included), after a full-jitter backoff or the provider's own Retry-After; then the
next target is asked, of whatever dialect. Tries beyond a call's first that fail as well are at most a fifth of the
calls: when everything is down, trying again makes it worse.

A stream that breaks in the client's hands ends with an error, or goes on from the next target, as the route's
`mid_stream` says: `continue` asks it to go on from the text so far, `restart_marker` to begin again behind a marker
(`[The answer was interrupted. It begins again.]`). It is asked by prefilling where the model takes that (Claude up to
4.5, without thinking), else in words; what it repeats of the end, or of all of it, is taken off. Filters go on across
the seam: what they held stays held, and the next provider is shown the text with `pii`'s placeholders still in. Calls
of tools, several answers to one call (`n`), and half an answer in JSON are never resumed. When nobody goes on, the
client gets the error of the break, never the fallback's own refusal. Where the dialect lets it, later events name the
model that went on; the usage is that provider's.

Whom to ask first, by the route's `strategy`; `route_why` in the record says why:

| strategy | who is asked first |
|---|---|
| `ordered` | as `to` is written |
| `weighted` | by each target's `weight`; the same caller (tenant and key, else address) always gets the same one. 0: only when others fail |
| `fastest` | who takes the least time for 300 tokens, by the time to the first token and the pace lately; one call in twenty asks somebody else. Streams and whole answers are measured apart, in each process |
| `cheapest` | whose price for this very call is lowest; no known price comes last; one whose own budget (a cap of `cost_cap` by provider) is spent is passed over |
| `by_complexity` | by each target's `quality`: a plain score of length, code, words that ask for reasoning, tools and turns; the header `x-llmshield-quality: high, medium or low` says it instead |

`regions` leaves out providers of other regions; that holds for every plugin's choice, also without `failover`.

`hedge: {after: 700ms, max_extra_cost: 20%}` asks the second target as well when the first has not begun after that
time; `after: p95` takes it from the first target's last 64 answers (from ten on). Who begins first answers, the other
one is cancelled and paid for what it did. At most that share of the calls is hedged.

Without an `api_key` of its own, a provider is asked with the client's key only if it is the first one that `to` names,
whatever the strategy; no client's key goes to a second provider.

What a failure means:

| failure | same target again | next target |
|---|---|---|
| 429, 5xx, no connection, reset (as `retry.when` says) | yes | then |
| silence, a late first token, a stalled stream | never | at once |
| a broken or cut answer, an error object inside a 200 | if `retry.when` names it | at once |
| 401, 402, 403, 404 of the provider, circuit open, passed over by a guard | never | at once |
| the context is too long for this model | never | at once, the next one whose window is larger, or unknown |
| 400, 413, 422 and other errors of the request; content policy | never | never: the client gets it |

Circuits: a provider with a `circuit` in the policy is left alone, model by model, after so many failures; one probe
finds out when it is back, and is not repeated there when it fails (docs/circuits.md).

When everything has failed, a route's `degraded` message is the answer, marked by the header `x-llmshield-degraded`;
without one the client gets the error.

Hooks: pre_request (hangs the circuit's permit on each attempt), choose_provider, on_failure.

Monitor mode: routes are walked no further than their first target, circuits count and block nothing.

Example:

    routes:
      - match: {model: "gpt-*"}
        to: [primary, backup]
        retry: {attempts: 2, when: [429, 5xx, connect], backoff: 200ms..2s}
        degraded: {message: "We can't answer right now."}
    plugins:
      - use: failover
"""

from __future__ import annotations

import random
from collections.abc import Awaitable
from dataclasses import dataclass

from llmshield.call import Attempt, Call, Failure
from llmshield.circuits import Circuits, Permit
from llmshield.hookspecs import Plugin, Resources
from llmshield.policy import Policy
from llmshield.policy import Route as Rule
from llmshield.policy.providers import BASE_URLS
from llmshield.prices import Prices
from llmshield.verdicts import Answer, Route, Skip, Target
from llmshield_plugins.failover.budget import Budget
from llmshield_plugins.failover.ordering import Ordering
from llmshield_plugins.failover.permits import report
from llmshield_plugins.failover.statistics import Statistics

_NEVER_AGAIN = frozenset({"first_token", "idle", "total", "skipped", "circuit_open", "key", "context_length"})
"""Failures after which the same target is not asked again in this call, whatever `retry.when` says."""

_ITS_OWN = frozenset({401, 402, 403, 404, 405, 408, 409, 410, 425, 429})
"""4xx that speak of the provider or the moment, not of the request: another target may well answer."""

_LONGEST_WAIT_S = 60.0


@dataclass(slots=True)
class _Further:
    """Tries of a call beyond its first, and whether one of them answered; None: the caller has left before."""

    tries: int = 0
    answered: bool | None = False


class Failover(Plugin):
    """Decides whom to ask first, and after each failed attempt whom to ask next."""

    async def start(self, resources: Resources) -> None:
        """Take the policy's routes and the circuits."""
        self._policy = resources.get(Policy)
        self._circuits = resources.get(Circuits)
        self._prices = resources.get(Prices)
        self._budget = Budget()
        self._statistics = Statistics()
        self._ordering = Ordering(self._policy, self._prices, self._statistics)
        rules = self._policy.routes
        self._measures = any(rule.strategy == "fastest" or rule.hedge is not None for rule in rules)
        if not any(rule.strategy != "ordered" or rule.hedge or rule.regions is not None for rule in rules):
            self.idle = frozenset({"choose_provider"})

    def pre_request(self, call: Call) -> None:
        """Hang a circuit's permit on each attempt."""
        self._budget.call()
        call.guard_attempt(self._permit)

    def choose_provider(self, call: Call, route: Route) -> Route | None:
        """Order the route's targets by its strategy, and say when a second one is asked beside the first."""
        rule = self._rule(call)
        if rule is None or route.targets != rule.to:  # another plugin's route
            return None
        ordered = self._ordering.order(call, rule)
        return self._ordering.hedged(call, rule, ordered or route) or ordered

    def _rule(self, call: Call) -> Rule | None:
        return self._policy.route_for(call.model, tenant=call.tenant, tier=call.tier, tags=call.tags)

    def _permit(self, attempt: Attempt) -> Skip | Awaitable[Skip | None] | None:
        permit = self._circuits.permit(attempt.provider, attempt.model)
        if permit is None:
            return self._left_alone(attempt)

        def end(ended: Attempt) -> None:
            further = ended.call.state.get(self)
            if further is not None:
                self._note(further, ended)
            if self._measures and ended.outcome == "ok":
                self._statistics.note(ended)
            report(permit, ended)

        attempt.at_end(end)  # before anything waits: a client may go away meanwhile
        return self._confirm(attempt, permit) if permit.probe else None

    def _note(self, further: _Further, ended: Attempt) -> None:
        """An attempt of a call that has tried further is over."""
        if ended.outcome in {"ok", "blocked"}:
            further.answered = True
        elif ended.outcome == "failed":
            self._budget.failed()
        elif ended.outcome == "cancelled" and not further.answered:
            further.answered = None

    def _over(self, call: Call) -> None:
        further = call.state[self]
        self._budget.over(further.tries, further.answered)

    async def _confirm(self, attempt: Attempt, probe: Permit) -> Skip | None:
        return None if await self._circuits.confirm(probe) else self._left_alone(attempt)

    def _left_alone(self, attempt: Attempt) -> Skip:
        wait_s = self._circuits.retry_after_s(attempt.provider, attempt.model)
        return Skip("circuit open", circuit=True, retry_after_s=min(wait_s, _LONGEST_WAIT_S))

    def on_failure(self, call: Call, failure: Failure) -> Route | Answer | None:
        """Again, the next one, a last word, or nothing."""
        rule = self._rule(call)
        said = self._next(call, failure, rule)
        if isinstance(said, Route) and failure.attempt.sent:
            if self._budget.take():
                further = call.state.get(self)
                if further is None:
                    further = call.state[self] = _Further()
                    call.at_end(self._over)
                further.tries += 1
            else:
                said = None  # everything fails: asking still more would only make it worse
        if said is None and not failure.visible and _may_go_on(failure):
            return _last_word(rule, failure)
        return said

    def _next(self, call: Call, failure: Failure, rule: Rule | None) -> Route | None:
        """Whom to ask now, or nobody."""
        if failure.left_s <= 0:
            return None
        if failure.visible:
            if rule is None or rule.mid_stream == "error":
                return None
            return _takes_over(rule, failure, call, again=not self._broken(failure.attempt))
        if not _may_go_on(failure):
            return None
        here = Target(failure.attempt.provider, failure.attempt.model)
        following = self._following(call, failure)
        if rule is not None and _again(rule, failure) and not self._broken(failure.attempt):
            wait = _wait(rule, failure)
            if wait < failure.left_s and (
                following is None
                or failure.retry_after_s is None
                or failure.retry_after_s <= rule.retry.backoff.hi
            ):
                return Route((here,), after=wait, why=f"again after {failure.reason}")
        if following is not None:
            return Route((following,), why=f"{failure.attempt.provider} failed: {failure.reason}")
        return None

    def _broken(self, attempt: Attempt) -> bool:
        """Whether this failure opened the circuit, or was its probe: it would let no further try through."""
        return self._circuits.state(attempt.provider, attempt.model) != "closed"

    def _following(self, call: Call, failure: Failure) -> Target | None:
        """The next target of the route; of a text that is too long only one whose window is larger, or unknown."""
        following = _after(failure.route, failure.attempt, call)
        if failure.reason != "context_length":
            return following
        had = self._window(failure.attempt.provider, failure.attempt.model)
        while following is not None:
            model = following.model or call.model
            window = self._window(following.provider, model)
            if had is None or window is None or window > had:
                return following
            following = _behind(failure.route, following.provider, model, call)
        return None

    def _window(self, provider: str, model: str) -> int | None:
        """Tokens that a model can read, by the price list; None where its provider is not the model's maker."""
        known = self._policy.providers.get(provider)
        if known is None or known.dialect is None or known.base_url != BASE_URLS[known.dialect]:
            return None
        price = self._prices.price(provider, known.dialect, model)
        return price.context if price is not None else None


def _last_word(rule: Rule | None, failure: Failure) -> Answer | None:
    if rule is None or rule.degraded is None or _denied(failure):
        return None
    return Answer(rule.degraded.message, degraded=True)


def _takes_over(rule: Rule, failure: Failure, call: Call, *, again: bool) -> Route | None:
    """Who goes on with a stream that broke in the client's hands: the next target, else one that has not failed (it
    lost a hedge), else the same once more where it may be asked `again`."""
    following = _after(failure.route, failure.attempt, call)
    if following is None:
        failed = {(each.provider, each.model) for each in failure.history if each.outcome != "cancelled"}
        failed.add((failure.attempt.provider, failure.attempt.model))
        fresh = [
            each for each in failure.route.targets if (each.provider, each.model or call.model) not in failed
        ]
        following = fresh[0] if fresh else None
    if following is None and again and failure.tries < rule.retry.attempts:
        following = Target(failure.attempt.provider, failure.attempt.model)
    return Route((following,), why=f"goes on after {failure.reason}") if following is not None else None


def _denied(failure: Failure) -> bool:
    """Whether nobody was asked because no provider may be asked for this model: a degraded answer would hide it."""
    return bool(failure.history) and all(
        attempt.reason == "skipped" and attempt.code == "model" for attempt in failure.history
    )


def _may_go_on(failure: Failure) -> bool:
    if failure.reason == "content_policy":
        return False
    status = failure.status
    return not (
        failure.reason == "status" and status is not None and 400 <= status < 500 and status not in _ITS_OWN
    )


def _again(rule: Rule, failure: Failure) -> bool:
    return (
        failure.reason not in _NEVER_AGAIN
        and failure.tries < rule.retry.attempts
        and rule.retry.covers(failure.reason, failure.status)
    )


def _after(route: Route, attempt: Attempt, call: Call) -> Target | None:
    """The target behind the one that failed, in the route's order."""
    return _behind(route, attempt.provider, attempt.model, call)


def _behind(route: Route, provider: str, model: str, call: Call) -> Target | None:
    for index, target in enumerate(route.targets[:-1]):
        if target.provider == provider and (target.model or call.model) == model:
            return route.targets[index + 1]
    return None


def _wait(rule: Rule, failure: Failure) -> float:
    """Seconds: the provider's advice, else full jitter under a doubling ceiling
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)."""
    if failure.retry_after_s is not None:
        return min(max(failure.retry_after_s, 0.0), _LONGEST_WAIT_S)
    ceiling = min(rule.retry.backoff.hi, rule.retry.backoff.lo * 2.0 ** (failure.tries - 1))
    return random.uniform(0.0, ceiling)  # noqa: S311  spreading load, not keeping secrets
