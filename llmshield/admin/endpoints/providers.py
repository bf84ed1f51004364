"""Providers: how they do, what is set of them and where each value comes from, and what may be set while they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from llmshield import provider_keys, provider_settings
from llmshield.admin.access import Officer
from llmshield.admin.endpoints.status import Left, Today
from llmshield.admin.house import House
from llmshield.admin.problems import Flaw, Problem
from llmshield.admin.shapes import Length, Moment, NamePart, Query, Shape, Words, moment
from llmshield.admin.showing import reference, shown
from llmshield.admin.table import Example, route
from llmshield.errors import SecretError
from llmshield.policy.admin import Settable
from llmshield.policy.providers import Models, Provider, Timeout
from llmshield.provider_settings import Set
from llmshield.resolvers import SecretRef

Source = Literal["policy", "default", "run_time"]
_PLAIN = ("dialect", "base_url", "connect", "region")
_PARTS = ("timeout", "circuit", "models", "prices", "system")


class KeyStanding(Shape):
    """A provider's key: never the key."""

    from_: str = Field(
        alias="from", description="`store`, the scheme of the policy's reference, or `client`."
    )
    state: Literal["good", "outage", "lost", "revoked"] = Field(
        description="`outage`: it can't be read and the last one goes on; `lost`, `revoked`: the provider is not asked."
    )
    age_s: float | None = Field(description="How long ago it was read.")
    failing: str | None = Field(description="Why it can't be read.")


class ProviderSummary(Shape):
    """A provider and how it does, as this process sees it."""

    name: str
    dialect: str | None
    base_url: str
    active: bool = Field(
        description="Whether it may be asked for anything: no circuit open, key not revoked or lost."
    )
    circuit: Literal["closed", "half_open", "open"]
    key: KeyStanding
    model: str | None = Field(description="The model that answered last.")
    last_ok: Moment | None
    failures: int = Field(description="Failures since then.")
    last_failure: Moment | None
    last_reason: str | None
    today: Today
    remaining: Left
    success_rate: float | None


class ProviderList(Shape):
    """All providers of the policy."""

    providers: tuple[ProviderSummary, ...]


class Setting(Shape):
    """One value that is in force."""

    name: str = Field(description="As the policy names it: `timeout.total`.")
    value: Any = Field(
        description="Durations are seconds, prices pico-USD a token; a key is told by its reference."
    )
    source: Source = Field(
        description="`policy`, `default`, or `run_time`: set while it runs, kept in the store."
    )
    settable: bool = Field(description="Whether it may be set while it runs (`admin.configure`).")


class ProviderDetail(ProviderSummary):
    """A provider, how it does, and every value that is in force."""

    settings: tuple[Setting, ...]
    set_at: Moment | None = Field(description="When something was last set while it runs (its key aside).")
    settings_readable: bool = Field(
        description="False: what was set can't be opened with this master key; unset it, or give the key back."
    )


class ProviderPath(Query):
    """Which provider."""

    provider: NamePart = Field(description="A provider of the policy.")


def _no_reference(text: str) -> str:
    if SecretRef.parse(text) is not None:
        raise PydanticCustomError(
            "reference", "expected the key itself, found a reference; those stand in the policy"
        )
    return text


class TimeoutChange(Shape):
    """How long each phase of an attempt may take; those that are left out stay."""

    connect: Length | None = Field(default=None, description="Name lookup, TCP and TLS: `5s`.")
    first_token: Length | None = Field(
        default=None, description="From the request's end to the first output."
    )
    idle: Length | None = Field(default=None, description="Between two events of a stream.")
    total: Length | None = Field(default=None, description="The whole attempt.")


Glob = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[!-~]+$")]


class ModelsChange(Shape):
    """Which models may be asked for."""

    allow: Annotated[tuple[Glob, ...], Field(min_length=1, max_length=100, strict=False)] = Field(
        default=("*",), description="Globs; `*` is any run of characters."
    )
    deny: Annotated[tuple[Glob, ...], Field(max_length=100, strict=False)] = Field(
        default=(), description="Globs; they win over `allow`."
    )


class Configuration(Shape):
    """What to set; at least one of them."""

    api_key: (
        Annotated[
            str,
            StringConstraints(min_length=8, max_length=4096, pattern=r"^[!-~]+$"),
            AfterValidator(_no_reference),
        ]
        | None
    ) = Field(default=None, description="The key itself; it is sealed before it is kept, and never shown.")
    timeout: TimeoutChange | None = Field(default=None, description="Only what is given changes.")
    models: ModelsChange | None = Field(default=None, description="Replaces what is there.")


class Unset(Shape):
    """What to take back."""

    names: Annotated[tuple[Settable, ...], Field(min_length=1, max_length=3, strict=False)] = Field(
        description="`api_key`, `timeout`, `models`: the policy's values count again."
    )


class Reason(Shape):
    """Why."""

    reason: Words = Field(default="", description="For people.")


@route("GET", "/v1/providers", role="read", example=Example())
async def list_providers(house: House) -> ProviderList:
    """Show all providers and how they do: active, circuit, key, last answer, today's requests and tokens, what is left.

    Figures of the day are this process' own.
    """
    said = (await house.runtime.status())["providers"]
    return ProviderList(
        providers=tuple(
            ProviderSummary(**_summary(name, house.policy.providers[name], each))
            for name, each in said.items()
        )
    )


@route("GET", "/v1/providers/{provider}", role="read", example=Example(path="/v1/providers/openai"))
async def show_provider(house: House, path: ProviderPath) -> ProviderDetail:
    """Show one provider with every value that is in force, and where each came from."""
    return await _detail(house, known_provider(house, path.provider))


@route(
    "POST", "/v1/providers/{provider}/configure", role="admin",
    example=Example(path="/v1/providers/openai/configure", body={"timeout": {"total": "30s"}}),
)  # fmt: skip
async def configure_provider(
    house: House, who: Officer, path: ProviderPath, body: Configuration
) -> ProviderDetail:
    """Set a provider's key, timeouts or models while it runs, as far as the policy's `admin.configure` allows.

    It is kept in the store, sealed under `LLMSHIELD_SECRET_KEY`; every process uses it within a second, and it wins over
    the policy until it is unset. The policy's file is not touched. A provider's address can't be set: a key goes to
    the policy's host only. A call's whole time stays that of `server.limits.call`.
    """
    name = known_provider(house, path.provider)
    wanted = [each for each in ("api_key", "timeout", "models") if getattr(body, each) is not None]
    if not wanted:
        raise Problem("invalid", "Give at least one of `api_key`, `timeout`, `models`.")
    _allowed(house, wanted)
    house.need_shared_store("Values that are set while it runs")
    more = _read(body)
    detail: dict[str, str | int | bool | None] = {"set": ", ".join(wanted)}
    if more.timeout is not None:
        detail |= {
            f"timeout.{each}_s": str(getattr(more.timeout, each)) for each in more.timeout.model_fields_set
        }
    if more.models is not None:
        detail |= {
            "models.allow": ", ".join(more.models.allow),
            "models.deny": ", ".join(more.models.deny or ()),
        }
    before = _values(house.policy.providers[name])
    async with house.change(who, "provider.configure", name, detail) as done:
        done |= {
            f"before.{each}": str(before[each])[:200] for each in before if each.partition(".")[0] in wanted
        }
        try:
            if body.api_key is not None:
                await provider_keys.configure(house.store, name, body.api_key)
            if not more.empty:
                await provider_settings.configure(house.store, name, more)
        except SecretError as error:
            raise Problem("conflict", str(error)) from None
    await house.runtime.settings.refresh()
    return await _detail(house, name)


@route(
    "POST", "/v1/providers/{provider}/unset", role="admin",
    example=Example(path="/v1/providers/openai/unset", body={"names": ["timeout"]}),
)  # fmt: skip
async def unset_provider(house: House, who: Officer, path: ProviderPath, body: Unset) -> ProviderDetail:
    """Take back what was set while it runs: the policy's values count again, everywhere within a second."""
    name = known_provider(house, path.provider)
    names = frozenset(body.names)
    async with house.change(who, "provider.unset", name, {"names": ", ".join(sorted(names))}):
        try:
            if "api_key" in names:
                await provider_keys.deconfigure(house.store, name)
            if names - {"api_key"}:
                await provider_settings.deconfigure(house.store, name, names - {"api_key"})
        except SecretError as error:
            raise Problem("conflict", str(error)) from None
    await house.runtime.settings.refresh()
    return await _detail(house, name)


@route(
    "POST", "/v1/providers/{provider}/revoke", role="operate",
    example=Example(path="/v1/providers/openai/revoke", body={"reason": "it was seen in a log"}),
)  # fmt: skip
async def revoke_provider_key(house: House, who: Officer, path: ProviderPath, body: Reason) -> ProviderDetail:
    """Stop the use of a provider's key in every process of the store, within a second.

    Calls under way go on, no further one is sent. Revoke the key at the provider too.
    """
    name = known_provider(house, path.provider)
    async with house.change(who, "provider.revoke", name, {"reason": body.reason}):
        await provider_keys.revoke(house.store, name, body.reason)
    return await _detail(house, name)


@route(
    "POST", "/v1/providers/{provider}/lift", role="admin", example=Example(path="/v1/providers/openai/lift")
)
async def lift_provider_key(house: House, who: Officer, path: ProviderPath) -> ProviderDetail:
    """Take a provider up again whose key was revoked: its key is read anew."""
    name = known_provider(house, path.provider)
    async with house.change(who, "provider.lift", name) as before:
        before["was_revoked"] = await provider_keys.lift(house.store, name)
    return await _detail(house, name)


def known_provider(house: House, name: str) -> str:
    """A provider's name. Raises: Problem."""
    if name not in house.policy.providers:
        have = ", ".join(house.policy.providers) or "none"
        raise Problem("not_found", f"The policy has no provider {name!r}; it has {have}.")
    return name


def _allowed(house: House, names: list[str]) -> None:
    """Raises: Problem for what the policy does not let be set."""
    allowed = house.policy.admin.configure
    refused = [name for name in names if name not in allowed]
    if refused:
        raise Problem(
            "conflict",
            f"The policy does not let {', '.join(refused)} be set while it runs; `admin.configure` has"
            f" {', '.join(allowed) or 'nothing'}.",
        )


def _read(body: Configuration) -> Set:
    timeout = None
    if body.timeout is not None:
        said = {name: value for name, value in body.timeout.model_dump().items() if value is not None}
        if not said:
            flaw = Flaw(place="body", at="timeout", message="found no phase, expected one or more of connect,"
                        " first_token, idle, total")  # fmt: skip
            raise Problem("invalid", "Not as expected in the body: timeout.", errors=[flaw])
        timeout = Timeout.model_construct(_fields_set=set(said), **{**Timeout().model_dump(), **said})
    models = None
    if body.models is not None:
        models = Models(allow=body.models.allow, deny=body.models.deny or None)
    return Set(timeout=timeout, models=models)


async def _detail(house: House, name: str) -> ProviderDetail:
    provider = house.policy.providers[name]
    said = (await house.runtime.status())["providers"][name]
    known = house.runtime.settings.known(name)
    changed = house.set_of(name)
    allowed = house.policy.admin.configure
    settings = []
    for each, value in _values(provider).items():
        part, _, key = each.partition(".")
        section = getattr(provider, part, None)
        written = part in provider.given and (not key or key in getattr(section, "model_fields_set", ()))
        source: Source = "run_time" if each in changed else "policy" if written else "default"
        settings.append(Setting(name=each, value=value, source=source, settable=part in allowed))
    return ProviderDetail(
        **_summary(name, provider, said), settings=tuple(settings), set_at=moment(known.since_ms),
        settings_readable=known.readable,
    )  # fmt: skip


def _values(provider: Provider) -> dict[str, Any]:
    """Every value of a provider that is in force, by its name in the policy."""
    found: dict[str, Any] = {name: shown(getattr(provider, name), name) for name in _PLAIN}
    found["api_key"] = reference(provider.api_key) if provider.api_key is not None else None
    for part in _PARTS:
        section = getattr(provider, part)
        if section is None:
            found[part] = None
        else:
            found |= {
                f"{part}.{key}": shown(getattr(section, key), key) for key in type(section).model_fields
            }
    found["parameters"] = shown(provider.parameters, "parameters")
    return found


def _summary(name: str, provider: Provider, said: Mapping[str, Any]) -> dict[str, Any]:
    key = said["key"]
    return {
        "name": name, "dialect": provider.dialect, "base_url": str(shown(provider.base_url)),
        "active": said["active"] and key["state"] in {"good", "outage"}, "circuit": said["circuit"],
        "key": KeyStanding.model_validate(key, strict=False), "model": said["model"],
        "last_ok": moment((said["last_ok"] or 0) * 1000), "failures": said["failures"],
        "last_failure": moment((said["last_failure"] or 0) * 1000), "last_reason": said["last_reason"],
        "today": Today(**said["today"]), "remaining": Left(**said["remaining"]), "success_rate": said["success_rate"],
    }  # fmt: skip
