"""Steps of an instant store end in one go; whoever claims to be instant and waits is told so."""

import asyncio

import pytest

from llmshield.errors import StoreUnavailable
from llmshield.stores import at_once, open_store


async def step(value: int) -> int:
    if value < 0:
        raise StoreUnavailable("away")
    return value


def test_the_result_or_the_error_of_a_step() -> None:
    assert at_once(step(7)) == 7
    with pytest.raises(StoreUnavailable):
        at_once(step(-1))


async def test_a_step_that_waits_is_refused() -> None:
    with pytest.raises(RuntimeError, match="has waited"):
        at_once(asyncio.sleep(1))


def test_only_a_store_of_one_process_is_instant() -> None:
    assert open_store("memory://").instant
    assert not open_store("sqlite:///x.db").instant
