"""failover: try again, ask the next provider, leave a failing one alone.

Walks a route's `to:` chain in order. A target is tried again where the route's `retry` says so (`attempts` counts
tries per target, the first included), after a full-jitter backoff or the provider's own Retry-After; then the
next target is asked. Nothing is repeated once any part of an answer has reached the client.

What a failure means:

| failure | same target again | next target |
|---|---|---|
| 429, 5xx, no connection, reset (as `retry.when` says) | yes | then |
| silence, a late first token, a stalled stream | never | at once |
| a broken or cut answer, an error object inside a 200 | if `retry.when` names it | at once |
| 401, 402, 403, 404 of the provider, circuit open, passed over by a guard | never | at once |
| the context is too long for this model | never | at once, where the next target names another model |
| 400, 413, 422 and other errors of the request; content policy | never | never: the client gets it |

Circuits: a provider with a `circuit` in the policy is left alone after so many failures; one probe finds out when
it is back. When everything has failed, a route's `degraded` message is the answer, marked by the header
`x-llmshield-degraded`; without one the client gets the error.

Hooks: pre_request (hangs the circuit's permit on each attempt), on_failure.

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

from llmshield.call import Attempt, Call, Failure
from llmshield.circuits import Circuits
from llmshield.hookspecs import Plugin, Resources
from llmshield.policy import Policy
from llmshield.policy import Route as Rule
from llmshield.verdicts import Answer, Route, Skip, Target

_NEVER_AGAIN = frozenset({"first_token", "idle", "total", "skipped", "circuit_open", "key", "context_length"})
"""Failures after which the same target is not asked again in this call, whatever `retry.when` says."""

_ITS_OWN = frozenset({401, 402, 403, 404, 405, 408, 409, 410, 425, 429})
"""4xx that speak of the provider or the moment, not of the request: another target may well answer."""

_LONGEST_WAIT_S = 60.0


class Failover(Plugin):
    """Decides after each failed attempt whom to ask next."""

    async def start(self, resources: Resources) -> None:
        """Take the policy's routes and the circuits."""
        self._policy = resources.get(Policy)
        self._circuits = resources.get(Circuits)

    def pre_request(self, call: Call) -> None:
        """Hang a circuit's permit on each attempt."""
        call.guard_attempt(self._permit)

    def _permit(self, attempt: Attempt) -> Skip | None:
        permit = self._circuits.permit(attempt.provider, attempt.model)
        if permit is None:
            return Skip("circuit open")

        def end(ended: Attempt) -> None:
            if ended.outcome in {"ok", "blocked"} and ended.sent:
                permit.success()
            elif ended.outcome == "failed" and _is_the_providers(ended):
                permit.failure(ended.reason or "status", ended.retry_after_s)
            else:
                permit.abandon()

        attempt.at_end(end)
        return None

    def on_failure(self, call: Call, failure: Failure) -> Route | Answer | None:
        """Again, the next one, a last word, or nothing."""
        rule = self._policy.route_for(call.model, tenant=call.tenant, tier=call.tier, tags=call.tags)
        if failure.visible:
            return None if rule is None or rule.mid_stream == "error" else _takes_over(rule, failure, call)
        if not _may_go_on(failure):
            return None
        here = Target(failure.attempt.provider, failure.attempt.model)
        following = _after(failure.route, failure.attempt, call)
        if rule is not None and _again(rule, failure):
            wait = _wait(rule, failure)
            if (
                following is None
                or failure.retry_after_s is None
                or failure.retry_after_s <= rule.retry.backoff.hi
            ):
                return Route((here,), after=wait, why=f"again after {failure.reason}")
        if following is not None:
            return Route((following,), why=f"{failure.attempt.provider} failed: {failure.reason}")
        if rule is not None and rule.degraded is not None and not _denied(failure):
            return Answer(rule.degraded.message, degraded=True)
        return None


def _takes_over(rule: Rule, failure: Failure, call: Call) -> Route | None:
    """Who goes on with a stream that broke in the client's hands: the next target, else the same once more."""
    following = _after(failure.route, failure.attempt, call)
    if following is None and failure.tries < rule.retry.attempts:
        following = Target(failure.attempt.provider, failure.attempt.model)
    return Route((following,), why=f"goes on after {failure.reason}") if following is not None else None


def _is_the_providers(attempt: Attempt) -> bool:
    """Whether a failure says that the provider is ill. A 4xx is the request's fault, or one key's limit."""
    return (
        attempt.status is None or attempt.status >= 500 or attempt.reason not in {"status", "context_length"}
    )


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
    for index, target in enumerate(route.targets[:-1]):
        if target.provider == attempt.provider and (target.model or call.model) == attempt.model:
            return route.targets[index + 1]
    return None


def _wait(rule: Rule, failure: Failure) -> float:
    """Seconds: the provider's advice, else full jitter under a doubling ceiling
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)."""
    if failure.retry_after_s is not None:
        return min(max(failure.retry_after_s, 0.0), _LONGEST_WAIT_S)
    ceiling = min(rule.retry.backoff.hi, rule.retry.backoff.lo * 2.0 ** (failure.tries - 1))
    return random.uniform(0.0, ceiling)  # noqa: S311  spreading load, not keeping secrets
