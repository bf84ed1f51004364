"""Whom a call may be put to: the policy's routes, and for an intercepted call the provider that it was going to."""

from __future__ import annotations

from llmshield.call import Call
from llmshield.errors import CallError
from llmshield.exchange import Exchange
from llmshield.policy import Policy
from llmshield.policy import Route as Rule
from llmshield.policy.globs import compile_globs
from llmshield.policy.providers import APP
from llmshield.verdicts import Route, Target


class Routing:
    """The routes of one policy."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._tier_models = {
            name: compile_globs(tier.models) for name, tier in policy.tiers.items() if tier.models is not None
        }

    def route(self, x: Exchange, call: Call) -> Route:
        """Who is asked, in which order. Raises: CallError `model_denied` (also by the tenant's tier), `no_provider`."""
        allows = self._tier_models.get(call.tier or "") if call.operation != "models" else None
        if allows is not None:
            for field, model in (("model", call.model), *call.other_models):
                if not allows(model):
                    message = f"Model {model!r:.100} is not open to tier {call.tier!r}."
                    raise CallError("model_denied", message, param=field)
        family = call.family
        if family == APP:
            if APP not in x.incoming.local:
                raise CallError(
                    "no_provider", "`apps:` are for the middleware; there is no wrapped app here."
                )
            return Route((Target(APP),), why="apps")
        origin = x.incoming.origin
        if call.operation == "models" or not self._policy.routes:
            names = [p.name for p in self._policy.providers.values() if p.dialect == family]
            if APP in x.incoming.local and (not names or call.operation == "models"):
                names = [APP]
            if origin is not None:
                names = [origin.provider]
            if not names:
                raise CallError("no_provider", f"The policy has no provider that speaks {family!r}.")
            x.to = tuple(Target(name) for name in names)
            return Route(x.to, why="the policy has no routes")
        rule = self._rule(call, call.model, "model")
        for field, model in call.other_models:
            self._rule(call, model, field)
        x.follow(rule)
        if origin is not None:
            x.to = home_first(rule.to, origin.provider)
        return Route(x.to, why="routes")

    def _rule(self, call: Call, model: str, field: str) -> Rule:
        """The route that matches a model. Raises: CallError `model_denied` where none does, or it denies."""
        rule = self._policy.route_for(model, tenant=call.tenant, tier=call.tier, tags=call.tags)
        if rule is None:
            message = f"No route of the policy matches model {model!r:.100}."
            raise CallError("model_denied", message, param=field)
        if rule.deny is not None:
            raise CallError("model_denied", rule.deny.text(model[:100]), param=field)
        return rule


def home_first(targets: tuple[Target, ...], provider: str) -> tuple[Target, ...]:
    """The targets of a route for a call that was going to this provider: it comes first, with the model that the
    route gives it; the others follow in the route's order."""
    home = tuple(target for target in targets if target.provider == provider)
    return (home or (Target(provider),)) + tuple(target for target in targets if target.provider != provider)


def check_origin(x: Exchange) -> None:
    """An intercepted request has to be for the host that its connection was made for (RFC 9110, 7.4): behind a
    certificate for one name nobody may ask another. Raises: CallError with status 421."""
    origin = x.incoming.origin
    if origin is None:
        return
    if not origin.provider:
        raise CallError(
            "forbidden",
            "This host is none of the policy's `egress.hosts`.",
            status=421,
            code="misdirected_request",
        )
    host = x.headers.get("host")
    if host is not None and not origin.is_for(host):
        raise CallError(
            "bad_request",
            "The Host header names another host than the TLS handshake did.",
            status=421,
            code="misdirected_request",
        )
