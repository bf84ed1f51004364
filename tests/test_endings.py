"""Ends happen exactly once, all of them, whatever becomes of one of them or of the task that waits."""

import asyncio

import pytest

import llmshield.endings
from llmshield.call import Attempt
from llmshield.endings import Endings
from llmshield.testing import call


def attempt() -> Attempt:
    return Attempt(call("x"), number=1, provider="p", model="m", dialect="openai_chat", body={})


async def test_an_attempt_ends_once_with_its_first_outcome() -> None:
    endings, one, seen = Endings(), attempt(), []
    one.at_end(lambda ended: seen.append(ended.outcome))
    await endings.end_attempt(one, "failed")
    await endings.end_attempt(one, "ok")

    assert ["failed"] == seen
    assert "failed" == one.outcome
    assert one.ended_at is not None


async def test_one_that_fails_keeps_none_of_the_others() -> None:
    endings, one, seen = Endings(), attempt(), []

    async def slow(ended: Attempt) -> None:
        await asyncio.sleep(0.01)
        seen.append("async")

    async def broken(ended: Attempt) -> None:
        raise RuntimeError("a bug")

    one.at_end(lambda ended: 1 / 0)  # type: ignore[arg-type,return-value]
    one.at_end(broken)
    one.at_end(slow)
    one.at_end(lambda ended: seen.append("sync"))
    await endings.end_attempt(one, "ok")

    assert ["sync", "async"] == seen


async def test_a_settlement_goes_on_when_its_client_goes_away() -> None:
    endings, one, seen = Endings(), attempt(), []

    async def settle(ended: Attempt) -> None:
        await asyncio.sleep(0.05)
        seen.append("settled")

    one.at_end(settle)
    ending = asyncio.create_task(endings.end_attempt(one, "cancelled"))
    await asyncio.sleep(0.01)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert [] == seen
    await endings.drain(1)

    assert ["settled"] == seen


async def test_one_that_hangs_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llmshield.endings, "PATIENCE_S", 0.01)
    door, seen = asyncio.Event(), []

    async def slow(ended: Attempt) -> None:
        await door.wait()
        seen.append(ended.outcome)

    ends, tried = Endings(), attempt()
    tried.at_end(slow)
    await asyncio.wait_for(ends.end_attempt(tried, "ok"), 2)
    assert seen == []
    door.set()
    await ends.drain(2)

    assert seen == ["ok"]
