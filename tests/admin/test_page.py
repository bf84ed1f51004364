"""The status page for people: when it is wanted, and that nothing in it comes alive."""

from typing import Any

import pytest

from llmshield.admin import page


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("application/json, text/html", False),
        ("application/json;q=0.5, text/html", True),
        ("text/html;q=0.1, application/json", False),
        ("text/html;q=nan", False),
        ("text/html;q=x", False),
        ("text/html;q=0", False),
        (",;,q=", False),
    ],
)
def test_who_wants_it(accept: str, wanted: bool) -> None:
    assert wanted == page.preferred(accept)


NASTY = "<script>alert(1)</script>\"'&\u2028"


async def test_nothing_comes_alive(desk: Any) -> None:
    figures = desk.runtime.metrics
    figures.attempt(
        provider="a", model=NASTY, outcome="ok", reason=None, seconds=0.1, tenant=NASTY, input_tokens=1
    )
    said = await desk.ask("GET", "/status", accept="text/html", key="read")
    text = said.body.decode()

    assert (200, "text/html; charset=utf-8") == (said.status, said.headers["content-type"])
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "default-src 'none'" in said.headers["content-security-policy"]
    assert "script-src" not in said.headers["content-security-policy"]
    for word in ("src=", "href=", "onload", "http-equiv", "sk-CANARY"):
        assert word not in text


async def test_it_can_be_asked_for_by_name(desk: Any) -> None:
    assert "text/html" in (await desk.ask("GET", "/status?format=html")).headers["content-type"]
    assert (await desk.ask("GET", "/status?format=json", accept="text/html")).json["ready"] is True
    assert 422 == (await desk.ask("GET", "/status?format=xml")).status
