"""Whom an intercepted call is put to, and for which host it may be."""

from __future__ import annotations

import pytest

from llmshield.errors import CallError
from llmshield.exchange import Exchange, Incoming
from llmshield.origins import Origin
from llmshield.routing import check_origin, home_first
from llmshield.verdicts import Target


def named(text: str) -> tuple[Target, ...]:
    """`a b=m` -> targets a and b, the second with the model m."""
    return tuple(Target(*each.split("=")) for each in text.split())


@pytest.mark.parametrize(
    ("route", "home", "wanted"),
    [
        ("a b", "a", "a b"),
        ("a b", "b", "b a"),
        ("a b", "c", "c a b"),
        ("a b=small a=big", "a", "a a=big b=small"),
        ("a b=small", "b", "b=small a"),
    ],
)
def test_the_destination_comes_first(route: str, home: str, wanted: str) -> None:
    assert named(wanted) == home_first(named(route), home)


async def nothing(limit: int) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "anything", None),
        (Origin("10.0.0.5", 1, "api.openai.com", "10.9.9.9", 443, "openai"), "api.openai.com", None),
        (Origin("10.0.0.5", 1, "api.openai.com", "10.9.9.9", 443, "openai"), None, None),
        (Origin("10.0.0.5", 1, "api.openai.com", "10.9.9.9", 443, "openai"), "evil.example", 421),
        (Origin("10.0.0.5", 1, "evil.example", "10.9.9.9", 443, ""), "evil.example", 421),
    ],
)
def test_hosts(origin: Origin | None, host: str | None, status: int | None) -> None:
    x = Exchange(Incoming("POST", b"/", b"", [], "", nothing, origin=origin), None, "id", 0.0)  # type: ignore[arg-type]
    if host is not None:
        x.headers["host"] = host
    if status is None:
        check_origin(x)
        return
    with pytest.raises(CallError) as raised:
        check_origin(x)

    assert (status, "misdirected_request") == (raised.value.status, raised.value.code)
