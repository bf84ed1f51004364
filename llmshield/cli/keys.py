"""`llmshield keys`: client keys in the store: make one, list them, revoke one.

The store is the policy's (`--policy`, else `policy.yaml` here), or `--store`. Gateways that run on it know within a
second. Exit status: 0 good, 1 when it can't be done, 2 usage.
"""

from __future__ import annotations

import asyncio
import enum
import json
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmshield.cli._reading import USAGE, policy_at
from llmshield.errors import ShieldError

if TYPE_CHECKING:
    from llmshield.client_keys import ClientKey
    from llmshield.policy import Policy
    from llmshield.stores import Store

T = TypeVar("T")

_COLUMNS = ("id", "tenant", "tier", "name", "state", "created", "expires", "in")


class Format(enum.StrEnum):
    """How the answer is written."""

    table = "table"
    json = "json"


PolicyOption = Annotated[Path, typer.Option("--policy", "-p", help="The policy whose store holds the keys.")]
StoreOption = Annotated[
    str | None, typer.Option(help="The store, instead of the policy's.", show_default=False)
]
FormatOption = Annotated[Format, typer.Option(help="How the answer is written.")]


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    keys = typer.Typer(no_args_is_help=True, help="Client keys: make, list, revoke.")

    @keys.command("create")
    def create_command(
        tenant: Annotated[str, typer.Option(help="Who it is for.")],
        tier: Annotated[
            str | None, typer.Option(help="A tier of the policy; else the tenant's.", show_default=False)
        ] = None,
        expires: Annotated[
            str | None, typer.Option(help="When it ends: 90d, 12h; else never.", show_default=False)
        ] = None,
        name: Annotated[str, typer.Option(help="What it is for, for people.")] = "",
        policy: PolicyOption = Path("policy.yaml"),
        store: StoreOption = None,
        format: FormatOption = Format.table,
    ) -> None:
        """Make a key and print it: once, it is nowhere else."""
        create(policy_at(policy, "keys"), store, tenant, tier, expires, name, format)

    @keys.command("list")
    def list_command(
        policy: PolicyOption = Path("policy.yaml"),
        store: StoreOption = None,
        format: FormatOption = Format.table,
    ) -> None:
        """Show all keys, never the keys themselves."""
        show(policy_at(policy, "keys"), store, format)

    @keys.command("revoke")
    def revoke_command(
        id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
        policy: PolicyOption = Path("policy.yaml"),
        store: StoreOption = None,
        format: FormatOption = Format.table,
    ) -> None:
        """Revoke a key, everywhere and for good."""
        revoke(policy_at(policy, "keys"), store, id, format)

    app.add_typer(keys, name="keys")


def create(
    policy: Policy,
    url: str | None,
    tenant: str,
    tier: str | None,
    expires: str | None,
    name: str,
    format: Format,
) -> None:
    """Make a key. Raises: ShieldError when it can't be; typer.Exit for wrong usage."""
    from llmshield import client_keys, clock
    from llmshield.policy.section import NAME

    if not re.fullmatch(NAME, tenant):
        raise _misused(
            f"--tenant {tenant!r:.80}: expected letters, digits, dot, underscore, hyphen, 64 at the most"
        )
    if len(name) > 64 or not (name.isprintable()):
        raise _misused("--name: expected up to 64 printable characters")
    known = policy.tenants.get(tenant)
    if tier is not None and tier not in policy.tiers:
        raise _misused(
            f"--tier {tier!r:.80}: expected one of {', '.join(policy.tiers) or 'the tiers that the policy lacks'}"
        )
    if tier is None and known is None:
        raise _misused(f"the tenant {tenant!r} is not in the policy: say --tier, or there would be no limits")
    ends_ms = int(clock.now() * 1000) + _duration_ms(expires) if expires is not None else 0
    key, made = _with_store(
        policy, url, lambda store: client_keys.create(store, tenant=tenant, tier=tier, name=name, expires_ms=ends_ms)
    )  # fmt: skip
    if format is Format.json:
        print(json.dumps({"key": key, **_told(made, "store", policy)}, indent=2))
    else:
        print(key)
        until = f", until {_stamp(ends_ms)}" if ends_ms else ""
        print(
            f"key {made.id} for {tenant}, tier {_tier(made, policy)}{until}; it is shown this once",
            file=sys.stderr,
        )
    if all(rule.kind != "virtual_key" for rule in policy.identify):
        print(
            "llmshield keys: this policy's `identify` does not name virtual_key: nobody is known by a key",
            file=sys.stderr,
        )
    elif not policy.tenants:
        print(
            "llmshield keys: this policy has no `tenants`: calls without a key are let in too",
            file=sys.stderr,
        )


def show(policy: Policy, url: str | None, format: Format) -> None:
    """Write the keys of the store, and those that stand in the policy. Raises: ShieldError."""
    from llmshield import client_keys
    from llmshield.client_keys import ClientKey

    stored = _with_store(policy, url, client_keys.everyone, missing=list[ClientKey]())
    rows = [_told(made, "store", policy) for made in stored if made.digest not in _listed(policy)]
    marks = {made.digest: made for made in stored}
    for digest, made in _listed(policy).items():
        rows.append(_told(marks.get(digest, made), "policy", policy))
    if format is Format.json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, no_wrap=True)
    for row in rows:
        row |= {"created": (row["created"] or "")[:10], "expires": (row["expires"] or "")[:10]}
        table.add_row(*[Text(str(row[column] or "")) for column in _COLUMNS])
    Console().print(table)


def revoke(policy: Policy, url: str | None, id: str, format: Format) -> None:
    """Revoke a key. Raises: ShieldError when there is none of this id."""
    from llmshield import client_keys

    wanted = client_keys.checked_id(id)
    listed = {made.id: made for made in _listed(policy).values()}

    async def run(store: Store) -> ClientKey:
        there = {made.id: made for made in await client_keys.everyone(store)}
        found = there.get(wanted) or listed.get(wanted)
        if found is None:
            raise ShieldError(f"No key has the id {wanted}; `llmshield keys list` shows them.")
        return await client_keys.revoke(store, found)

    revoked = _with_store(policy, url, run)
    place = "policy" if wanted in listed else "store"
    if format is Format.json:
        print(json.dumps(_told(revoked, place, policy), indent=2))
    else:
        print(f"revoked {revoked.id} of {revoked.tenant}; running gateways refuse it within a second")
    if place == "policy":
        print(
            f"llmshield keys: it also stands in the policy (tenants.{revoked.tenant}.keys): delete it there too",
            file=sys.stderr,
        )


def _listed(policy: Policy) -> dict[str, ClientKey]:
    """The keys that stand in the policy, by their hash."""
    from llmshield.client_keys import ClientKey

    return {
        key.removeprefix("sha256:"): ClientKey(key.removeprefix("sha256:"), tenant)
        for key, tenant in policy.keys.items()
    }


def _with_store(
    policy: Policy, url: str | None, work: Callable[[Store], Awaitable[T]], missing: T | None = None
) -> T:
    """Do something with the open store; `missing` is the answer where its file is still to be made, if looking is all.

    Raises: ShieldError when there is none that others share.
    """
    from llmshield.local_state import LocalState
    from llmshield.stores import open_store

    store = open_store(url or policy.server.store)
    if not store.shared:
        raise ShieldError(
            "memory:// lives in one process only; name a store that gateways share in `server.store`, such as"
            " sqlite:///llmshield.db, or list the key's hash under `tenants`."
        )
    if missing is not None and store.url.scheme == "sqlite" and not Path(store.url.path).is_file():
        return missing
    folder = policy.server.state_dir
    LocalState(store.url, Path(folder).expanduser() if folder else None).recall(store)

    async def run() -> T:
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _told(made: ClientKey, place: str, policy: Policy) -> dict[str, Any]:
    from llmshield import clock

    return {
        "id": made.id,
        "tenant": made.tenant,
        "tier": _tier(made, policy),
        "name": made.name,
        "state": made.state(int(clock.now() * 1000)),
        "created": _stamp(made.created_ms),
        "expires": _stamp(made.expires_ms),
        "revoked": _stamp(made.revoked_ms),
        "in": place,
    }


def _tier(made: ClientKey, policy: Policy) -> str | None:
    known = policy.tenants.get(made.tenant)
    return made.tier or (known.tier if known is not None else None)


def _stamp(ms: int) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if ms else None


def _duration_ms(text: str) -> int:
    """Milliseconds in `90d`. Raises: typer.Exit for anything else."""
    from pydantic_core import PydanticCustomError

    from llmshield.policy.units import positive_duration

    try:
        return int(positive_duration(text) * 1000)
    except PydanticCustomError as error:
        raise _misused(f"--expires: {error.message()}") from None


def _misused(message: str) -> typer.Exit:
    print(f"llmshield keys: {message}", file=sys.stderr)
    return typer.Exit(USAGE)
