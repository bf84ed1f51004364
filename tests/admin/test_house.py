"""A change is recorded before it is made, and again how it went; where it can't be recorded it is not made."""

from typing import Any

import pytest

from llmshield.admin.access import Officer
from llmshield.admin.house import House
from llmshield.admin.problems import Problem
from llmshield.errors import StoreUnavailable

ANN = Officer("key:ann", "operate", "192.0.2.7")


async def test_begun_and_done(desk: Any) -> None:
    house = House(desk.runtime)
    async with house.change(ANN, "block.add", "192.0.2.9", {"reason": "x"}) as before:
        before["state"] = "closed"

    begun, done = desk.records()
    assert ("begun", {"reason": "x"}) == (begun["outcome"], begun["detail"])
    assert ("done", {"state": "closed"}) == (done["outcome"], done["detail"])
    assert begun["actor"] == done["actor"] != "key:ann"


async def test_what_fails_is_told(desk: Any) -> None:
    house = House(desk.runtime)
    with pytest.raises(StoreUnavailable):
        async with house.change(ANN, "block.add"):
            raise StoreUnavailable("away")

    assert ["begun", "failed"] == [each["outcome"] for each in desk.records()]


async def test_no_record_no_change(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(**_: Any) -> None:
        raise StoreUnavailable("the audit log can't be written: No space left on device")

    monkeypatch.setattr(desk.runtime.audit, "change", refuses)
    said = await desk.ask("POST", "/v1/blocks", {"target": "192.0.2.7"})

    assert (503, "unavailable") == (said.status, said.code)
    assert [] == (await desk.ask("GET", "/v1/blocks")).json["blocks"]


async def test_what_needs_a_shared_store_says_so(open_desk: Any) -> None:
    async with open_desk("providers: {a: {dialect: openai}}", token="a-token-of-some-length") as desk:
        with pytest.raises(Problem, match=r"server\.store"):
            House(desk.runtime).need_shared_store("Client keys")
