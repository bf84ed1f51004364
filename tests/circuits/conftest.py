"""Stores behind a wire that tests cut."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from llmshield.errors import StoreUnavailable
from llmshield.stores import Store, open_store


class Held(Store):
    """The real store, behind a wire that can be cut and counts what goes over it."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.cut, self.steps = inner, False, 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        if name in ("inner", "cut", "steps", "meanwhile"):
            return own(self, name)
        if name == "shared":
            return True
        found = getattr(own(self, "inner"), name)
        if name not in ("swap", "revision", "notes", "put"):
            return found

        async def step(*args: Any) -> Any:
            self.steps += 1
            if self.cut:
                raise StoreUnavailable("cut")
            await asyncio.sleep(0)  # others get their turn in the midst of every step
            said = await found(*args)
            meanwhile = self.meanwhile
            if name == "notes" and meanwhile is not None:
                self.meanwhile = None
                await meanwhile()
            return said

        return step


Held.__abstractmethods__ = frozenset()  # everything is asked of the inner one


@pytest.fixture
async def stores() -> AsyncIterator[Callable[[], Held]]:
    inner = open_store("memory://")
    await inner.open()
    yield lambda: Held(inner)
    await inner.close()


@pytest.fixture
def fresh() -> Callable[[], Held]:
    """Makes a store that holds nothing, each time."""
    return lambda: Held(open_store("memory://"))
