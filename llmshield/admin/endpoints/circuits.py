"""Which providers are left alone; leave one alone, or ask it again, by hand."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from llmshield.admin.access import Officer
from llmshield.admin.house import House
from llmshield.admin.problems import Problem
from llmshield.admin.shapes import Length, ModelName, NamePart, Query, Shape
from llmshield.admin.table import Example, route


class ModelCircuit(Shape):
    """The circuit of one provider and one model."""

    provider: str
    model: str = Field(description="As it is sent to the provider.")
    state: Literal["closed", "half_open", "open"]
    failures: int = Field(description="Failures that count now.")
    opens: int = Field(description="How often it has opened, as this process saw it.")
    reason: str | None = Field(description="Why it is open; null where it is not.")
    retry_after_s: float | None = Field(
        description="Seconds until the provider may be asked again; null: until somebody closes it."
    )


class ProviderCircuit(Shape):
    """All circuits of one provider, and the worst of them."""

    provider: str
    state: Literal["closed", "half_open", "open"] = Field(description="The worst of its circuits.")
    active: bool = Field(description="Whether it may be asked for anything.")
    models: tuple[ModelCircuit, ...] = Field(description="Circuits that had failures, or that somebody set.")


class CircuitList(Shape):
    """Every provider that has a circuit."""

    alone: bool = Field(description="The store is away: each process has circuits of its own.")
    providers: tuple[ProviderCircuit, ...]


class CircuitQuery(Query):
    """Which of them."""

    provider: NamePart | None = Field(default=None, description="One provider.")


class Which(Shape):
    """One circuit, or all of a provider."""

    provider: NamePart = Field(description="A provider of the policy that has a `circuit`.")
    model: ModelName | None = Field(
        default=None, description="One model, as it is sent to the provider; all without it."
    )


class WhichOpen(Which):
    """One circuit, or all of a provider, and for how long."""

    for_: Length | None = Field(
        default=None, alias="for", description="How long: `30s`, `10m`, `2h`; without it until it is closed."
    )


class WhichReset(Shape):
    """One provider, or all."""

    provider: NamePart | None = Field(
        default=None, description="A provider that has a `circuit`; all without it."
    )


@route("GET", "/v1/circuits", role="read", example=Example())
async def list_circuits(house: House, query: CircuitQuery) -> CircuitList:
    """Show how the circuits stand, as this process sees them.

    The processes of a store agree within a second.
    """
    names = [query.provider] if query.provider is not None else _breakable(house)
    return CircuitList(
        alone=house.runtime.circuits.alone,
        providers=tuple(_shown(house, _known(house, name)) for name in names),
    )


@route(
    "POST", "/v1/circuits/open", role="operate", example=Example(body={"provider": "openai", "for": "10m"})
)
async def open_circuit(house: House, who: Officer, body: WhichOpen) -> ProviderCircuit:
    """Leave a provider alone from now on, or one model of it.

    It holds in every process of the store within a second, whatever the provider answers meanwhile.
    """
    name = _known(house, body.provider)
    seconds = body.for_ if body.for_ is not None else math.inf
    detail = {"model": body.model, "for_s": int(seconds) if body.for_ is not None else None}
    async with house.change(who, "circuit.open", name, detail) as before:
        before["state"] = house.runtime.circuits.state(name, body.model)
        await house.runtime.circuits.set_open(name, body.model, seconds)
    return _shown(house, name)


@route("POST", "/v1/circuits/close", role="operate", example=Example(body={"provider": "openai"}))
async def close_circuit(house: House, who: Officer, body: Which) -> ProviderCircuit:
    """Ask a provider again from now on, or one model of it; what counted against it is forgotten."""
    name = _known(house, body.provider)
    async with house.change(who, "circuit.close", name, {"model": body.model}) as before:
        before["state"] = house.runtime.circuits.state(name, body.model)
        await house.runtime.circuits.set_closed(name, body.model)
    return _shown(house, name)


@route("POST", "/v1/circuits/reset", role="operate", example=Example(body={}))
async def reset_circuits(house: House, who: Officer, body: WhichReset) -> CircuitList:
    """Begin anew: every circuit of a provider, or of all, is closed, and what counted against it is forgotten."""
    names = [_known(house, body.provider)] if body.provider is not None else _breakable(house)
    async with house.change(who, "circuit.reset", body.provider or "*"):
        for name in names:
            await house.runtime.circuits.set_closed(name, None)
    circuits = house.runtime.circuits
    return CircuitList(alone=circuits.alone, providers=tuple(_shown(house, name) for name in names))


def _breakable(house: House) -> list[str]:
    return sorted(name for name, provider in house.policy.providers.items() if provider.circuit is not None)


def _known(house: House, name: str) -> str:
    """The name of a provider that has a circuit. Raises: Problem."""
    found = house.policy.providers.get(name)
    if found is None:
        raise Problem("not_found", f"The policy has no provider {name!r}; `GET /v1/providers` shows them.")
    if found.circuit is None:
        raise Problem(
            "conflict",
            f"Provider {name!r} has no `circuit` in the policy; with one: {', '.join(_breakable(house)) or 'none'}.",
        )
    return name


def _shown(house: House, name: str) -> ProviderCircuit:
    circuits = house.runtime.circuits
    models = circuits.snapshot().get(name, {})
    return ProviderCircuit(
        provider=name,
        state=circuits.state(name),
        active=circuits.active(name),
        models=tuple(ModelCircuit(provider=name, model=model, **said) for model, said in models.items()),
    )
