"""Client keys: make one, list them, revoke one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from llmshield import client_keys, clock
from llmshield.admin.access import Officer
from llmshield.admin.house import House
from llmshield.admin.problems import Problem
from llmshield.admin.shapes import Length, Moment, NamePart, Query, Shape, Words, moment
from llmshield.admin.table import Example, route
from llmshield.client_keys import ClientKey


class Key(Shape):
    """What is known of a client key: never the key."""

    id: str = Field(description="How it is listed, revoked and recorded: the start of its hash.")
    tenant: str
    tier: str | None = Field(description="Its own tier, else the tenant's.")
    name: str = Field(description="What it is for, for people.")
    state: Literal["active", "expired", "revoked"]
    created: Moment | None
    expires: Moment | None
    revoked: Moment | None
    place: Literal["store", "policy"] = Field(description="Where it is kept.")


class KeyList(Shape):
    """All client keys: of the store, and of the policy."""

    keys: tuple[Key, ...]


class MadeKey(Key):
    """A new key."""

    key: str = Field(description="The key itself: shown this once, it is nowhere else.")


class NewKey(Shape):
    """Whom a key is for."""

    tenant: NamePart = Field(description="Who it is for.")
    tier: NamePart | None = Field(default=None, description="A tier of the policy; else the tenant's.")
    name: Annotated[Words, StringConstraints(max_length=64)] = Field(
        default="", description="What it is for, for people."
    )
    expires: Length | None = Field(default=None, description="When it ends: `90d`, `12h`; else never.")


class KeyPath(Query):
    """Which key."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")] = Field(
        description="The key's id, as the list shows it."
    )


@route("GET", "/v1/keys", role="read", example=Example())
async def list_keys(house: House) -> KeyList:
    """Show all client keys, never the keys themselves."""
    stored = {made.digest: made for made in await client_keys.everyone(house.store)}
    listed = _listed(house)
    shown = [_shown(house, made, "store") for digest, made in stored.items() if digest not in listed]
    shown += [_shown(house, stored.get(digest, made), "policy") for digest, made in listed.items()]
    return KeyList(keys=tuple(shown))


@route(
    "POST", "/v1/keys", role="admin", status=201,
    example=Example(body={"tenant": "acme", "name": "laptop", "expires": "90d"}),
)  # fmt: skip
async def create_key(house: House, who: Officer, body: NewKey) -> MadeKey:
    """Make a client key; the answer is the only place where it stands.

    Gateways of the store know it within a second.
    """
    house.need_shared_store("Client keys")
    policy = house.policy
    if body.tier is not None and body.tier not in policy.tiers:
        raise Problem(
            "conflict", f"The policy has no tier {body.tier!r}; it has {', '.join(policy.tiers) or 'none'}."
        )
    if body.tier is None and body.tenant not in policy.tenants:
        raise Problem(
            "conflict",
            f"The tenant {body.tenant!r} is not in the policy: give a `tier`, or there would be no limits.",
        )
    expires_ms = int((clock.now() + body.expires) * 1000) if body.expires is not None else 0
    detail = {"tier": body.tier, "name": body.name, "expires": moment(expires_ms)}
    async with house.change(who, "key.create", body.tenant, detail) as made_of:
        key, made = await client_keys.create(
            house.store, tenant=body.tenant, tier=body.tier, name=body.name, expires_ms=expires_ms
        )
        made_of["id"] = made.id
    return MadeKey(key=key, **_shown(house, made, "store").model_dump())


@route("DELETE", "/v1/keys/{id}", role="admin", example=Example(path="/v1/keys/$ID"))
async def revoke_key(house: House, who: Officer, path: KeyPath) -> Key:
    """Revoke a client key, everywhere within a second, and for good; again it does nothing.

    A key that stands in the policy is revoked too; take it out there as well.
    """
    house.need_shared_store("Client keys")
    listed = {made.id: made for made in _listed(house).values()}
    there = {made.id: made for made in await client_keys.everyone(house.store)}
    found = there.get(path.id) or listed.get(path.id)
    if found is None:
        raise Problem("not_found", "No client key has this id; `GET /v1/keys` shows them.")
    async with house.change(who, "key.revoke", found.id, {"tenant": found.tenant, "name": found.name}):
        revoked = await client_keys.revoke(house.store, found)
    return _shown(house, revoked, "policy" if found.id in listed else "store")


def _listed(house: House) -> dict[str, ClientKey]:
    """The keys that stand in the policy, by their hash."""
    digests = {key.removeprefix("sha256:"): tenant for key, tenant in house.policy.keys.items()}
    return {digest: ClientKey(digest, tenant) for digest, tenant in digests.items()}


def _shown(house: House, made: ClientKey, place: Literal["store", "policy"]) -> Key:
    known = house.policy.tenants.get(made.tenant)
    state = made.state(int(clock.now() * 1000))
    return Key(
        id=made.id, tenant=made.tenant, tier=made.tier or (known.tier if known is not None else None), name=made.name,
        state="revoked" if state == "revoked" else "expired" if state == "expired" else "active",
        created=moment(made.created_ms), expires=moment(made.expires_ms), revoked=moment(made.revoked_ms), place=place,
    )  # fmt: skip
