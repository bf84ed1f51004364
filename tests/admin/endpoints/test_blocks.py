"""Blocks over the admin port: they hold on the data port within a second."""

from typing import Any

import pytest

from llmshield.blocks import Blocks
from llmshield.errors import CallError


async def test_a_block_is_made_shown_held_and_taken_back(desk: Any) -> None:
    made = await desk.ask(
        "POST", "/v1/blocks", {"target": "192.0.2.7", "for": "1h", "reason": "stuffing"}, key="operate"
    )
    listed = await desk.ask("GET", "/v1/blocks", key="read")
    blocks = Blocks(desk.runtime.store)
    await blocks.refresh()

    assert (201, "192.0.2.7", "stuffing") == (made.status, made.json["target"], made.json["reason"])
    assert [made.json] == listed.json["blocks"]
    with pytest.raises(CallError, match="blocked until"):
        blocks.check("acme", "192.0.2.7")
    gone = await desk.ask("DELETE", "/v1/blocks?target=192.0.2.7/32", key="operate")
    assert (200, made.json) == (gone.status, gone.json)
    assert 404 == (await desk.ask("DELETE", "/v1/blocks?target=192.0.2.7")).status
    assert ["block.add", "block.add", "block.remove", "block.remove"] == [
        each["action"] for each in desk.records()
    ]


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::/48", "2001:db8::/48"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("tenant:acme", "tenant:acme"),
        ("evil.example.com", None),
        ("192.0.2.256", None),
        ("tenant:", None),
        ("192.0.2.7\r\nx", None),
        ("", None),
    ],
)
async def test_targets(desk: Any, target: str, shown: str | None) -> None:
    said = await desk.ask("POST", "/v1/blocks", {"target": target})

    assert (201 if shown else 422) == said.status
    if shown:
        assert (shown, None) == (said.json["target"], said.json["until"])
