"""What handlers are given of the process that they look at and change, and how a change gets into the record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from llmshield.admin.access import Officer
from llmshield.admin.problems import Problem
from llmshield.ledger import Ledger
from llmshield.policy import Policy
from llmshield.runtime import Runtime
from llmshield.stores import Store

Detail = Mapping[str, str | int | bool | None]


class House:
    """One runtime, as the admin port sees it."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.probing = asyncio.Lock()
        """One provider is asked on purpose at a time."""

    @property
    def policy(self) -> Policy:
        """The policy that is in force."""
        return self.runtime.policy

    @property
    def store(self) -> Store:
        """The shared state."""
        return self.runtime.store

    @property
    def ledger(self) -> Ledger:
        """The money book."""
        return self.runtime.ledger

    def set_of(self, provider: str) -> frozenset[str]:
        """The values of a provider that were set while it runs, by their names: `api_key`, `timeout.total`."""
        known = self.runtime.settings.known(provider).said
        found = {"api_key"} if self.runtime.keys.status(provider)["from"] == "store" else set()
        if known.timeout is not None:
            found |= {f"timeout.{phase}" for phase in known.timeout.model_fields_set}
        if known.models is not None:
            found |= {"models.allow", "models.deny"}
        return frozenset(found)

    def need_shared_store(self, what: str) -> None:
        """Raises: Problem `conflict` where nobody else could see what is written."""
        if not self.store.shared:
            raise Problem(
                "conflict",
                f"{what} need a store that outlives the process: set `server.store` to sqlite:///llmshield.db or"
                " redis://host:6379/0.",
            )

    @asynccontextmanager
    async def change(
        self, who: Officer, action: str, target: str = "", detail: Detail | None = None
    ) -> AsyncIterator[dict[str, str | int | bool | None]]:
        """Record that somebody changes something, before it is changed, and again how that went.

        What is put into the mapping that it gives is recorded when the change is done (what was there before).

        Raises: StoreUnavailable where the policy wants a record and none can be written: then nothing is changed.
        """
        record = self.runtime.audit.change
        more: dict[str, str | int | bool | None] = {}
        await record(
            actor=who.name,
            role=who.role,
            action=action,
            target=target,
            client=who.address,
            detail=detail or {},
        )
        try:
            yield more
        except BaseException:
            await record(
                actor=who.name, role=who.role, action=action, target=target, outcome="failed", client=who.address,
                detail=more,
            )  # fmt: skip
            raise
        await record(
            actor=who.name,
            role=who.role,
            action=action,
            target=target,
            outcome="done",
            client=who.address,
            detail=more,
        )

    async def refused(self, who: Officer, action: str) -> None:
        """Record that somebody tried what they have no right to."""
        await self.runtime.audit.change(
            actor=who.name, role=who.role, action=action, outcome="refused", client=who.address
        )
