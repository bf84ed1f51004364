"""The status for programs; the page for people is tests/admin/test_page.py."""

from typing import Any


async def test_what_runs_here(desk: Any) -> None:
    said = await desk.ask("GET", "/status", key="read")

    assert ({"a", "b"}, True, {"cost_cap": "enforce"}) == (
        set(said.json["providers"]), said.json["ready"], said.json["plugins"],
    )  # fmt: skip
    figures = said.json["providers"]["a"]
    assert (True, "closed", 0) == (figures["active"], figures["circuit"], figures["today"]["requests"])
    assert b"CANARY" not in said.body
