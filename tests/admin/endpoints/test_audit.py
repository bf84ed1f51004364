"""The record over the admin port: who changed what, what was decided, and no texts."""

import asyncio
import json
import time
from typing import Any

import pytest


async def written(desk: Any, count: int) -> None:
    began = time.monotonic()
    while desk.runtime.audit.written < count:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.02)


async def test_who_changed_what(desk: Any) -> None:
    await desk.ask(
        "POST", "/v1/blocks", {"target": "192.0.2.7", "reason": "x"}, key="operate", peer="192.0.2.99"
    )
    await desk.ask("POST", "/v1/blocks", {"target": "192.0.2.8"}, key="admin")
    await written(desk, 4)

    async def found(query: str) -> Any:
        return (await desk.ask("GET", f"/v1/audit?{query}", key="read")).json["records"]

    all_of_them = await found("kind=admin")
    assert [("block.add", "begun"), ("block.add", "done")] * 2 == [
        (each["action"], each["outcome"]) for each in all_of_them
    ]
    assert ["192.0.2.7"] * 2 == [
        each["target"].removesuffix("/32") for each in await found("key=key:operate-key")
    ]
    assert 2 == len(await found("client=192.0.2.99"))
    assert 0 == len(await found("client=192.0.2.98"))
    assert 4 == len(await found("action=block.add"))
    assert 0 == len(await found("action=block.add&until=2020-01-01&since=2019-01-01"))
    assert "head" in {each["kind"] for each in await found("kind=any")}
    last = await desk.ask("GET", "/v1/audit?limit=1", key="read")
    assert (1, True, "done") == (
        len(last.json["records"]),
        last.json["more"],
        last.json["records"][0]["outcome"],
    )
    assert "192.0.2.99" not in str(all_of_them)


async def test_texts_are_not_shown(desk: Any) -> None:
    texts = [["/messages/0", "user", "CANARY text of a person"]]
    record = {
        "kind": "call",
        "request_id": "01J",
        "tenant": "acme",
        "model": "gpt-4o",
        "content": {"mode": "redacted", "texts": texts},
    }
    desk.runtime.audit.record(json.dumps(record))
    await written(desk, 1)
    said = await desk.ask("GET", "/v1/audit?tenant=acme&model=gpt-4o", key="read")

    assert ["01J"] == [each["request_id"] for each in said.json["records"]]
    assert b"CANARY" not in said.body


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=1001", 422),
        ("kind=x", 422),
        ("since=yesterday", 422),
        ("until=2026-99-01", 422),
        ("provider=a b", 400),
        ("provider=a%20b", 422),
        ("tenant=", 422),
        ("user=x", 422),
        ("tenant=%F0%9F%98%80", 200),
    ],
)
async def test_questions(desk: Any, query: str, status: int) -> None:
    assert status == (await desk.ask("GET", f"/v1/audit?{query}", key="read")).status


async def test_without_a_file_there_is_nothing_to_search(open_desk: Any) -> None:
    token = "a-token-of-some-length"
    async with open_desk("audit: {sink: none}", token=token) as desk:
        said = await desk.ask("GET", "/v1/audit", key=token)

    assert (409, "conflict") == (said.status, said.code)
