"""Which calls a match means, what a retry covers, and the order of routes and overrides."""

from __future__ import annotations

from typing import Any

import pytest

from llmshield.policy import Match, Retry, loads

CALL: dict[str, Any] = {"model": "gpt-4o", "tenant": "acme", "tier": "pro", "tags": {"team": "search"}}

TABLE = [
    ({"any": True}, True),
    ({"model": "gpt-4o"}, True),
    ({"model": "gpt-4"}, False),
    ({"model": ["x", "gpt-*"]}, True),
    ({"tenant": "acme"}, True),
    ({"tenant": "a*", "model": "claude-*"}, False),
    ({"tier": "pro"}, True),
    ({"tier": ["free"]}, False),
    ({"tags": {"team": "s*"}}, True),
    ({"tags": {"team": "s*", "env": "*"}}, False),
    ({"tags": {"env": "*"}}, False),
    ({"model": "gpt-4o", "tenant": "acme", "tier": "pro", "tags": {"team": "search"}}, True),
]


@pytest.mark.parametrize(("match", "expected"), TABLE)
def test_match(match: dict[str, Any], expected: bool) -> None:
    assert expected is Match.model_validate(match).matches(**CALL)


def test_a_call_without_traits_matches_no_condition_on_them() -> None:
    for match in ({"tier": "*"}, {"tags": {"a": "*"}}, {"tenant": "?*"}):
        assert not Match.model_validate(match).matches("gpt-4o")


@pytest.mark.parametrize(
    ("when", "reason", "status", "expected"),
    [
        ([429], "status", 429, True),
        ([429], "status", 500, False),
        (["5xx"], "status", 599, True),
        (["5xx"], "status", 429, False),
        (["4xx"], "status", 400, True),
        (["connect"], "connect", None, True),
        (["connect"], "reset", None, False),
        ([], "connect", None, False),
        (["timeout"], "idle", None, True),
        (["timeout"], "first_token", None, True),
        (["timeout"], "connect", None, False),
        (["503"], "status", 503, True),
    ],
)
def test_retry(when: list[Any], reason: str, status: int | None, expected: bool) -> None:
    assert expected is Retry.model_validate({"when": when}).covers(reason, status)


def test_first_route_wins() -> None:
    policy = loads(
        """\
version: 1
routes:
  - {match: {model: gpt-4o, tenant: acme}, to: [app]}
  - {match: {model: "gpt-*"}, deny: {message: "no {model}, {model}"}}
  - {match: {any: true}, to: [app]}
"""
    )
    first, second, third = policy.routes

    assert policy.route_for("gpt-4o", tenant="acme") is first
    assert policy.route_for("gpt-4o") is second
    assert second.deny is not None
    assert second.deny.text("{model}") == "no {model}, {model}"
    assert policy.route_for("x") is third
    assert loads("version: 1").route_for("x") is None


def test_overrides_end(folder: Any) -> None:
    policy = loads(
        """\
version: 1
plugins: [{use: ./no_competitors.py}]
overrides:
  - {match: {any: true}, plugins: {no_competitors: {mode: disabled}}, reason: day, until: 2099-01-31}
  - {match: {tenant: acme}, plugins: {no_competitors: {mode: monitor}}, reason: moment, until: "2099-01-31T12:00:00+01:00"}
""",
        base=folder,
    )
    moment, end_of_day = 4073540400.0, 4073587200.0  # 2099-01-31 11:00 and 24:00 UTC

    assert [end_of_day, moment] == [item.until for item in policy.overrides]
    assert [item.reason for item in policy.overrides_for(moment - 1, "m", tenant="acme")] == ["day", "moment"]
    assert [item.reason for item in policy.overrides_for(moment, "m", tenant="acme")] == ["day"]
    assert policy.overrides_for(end_of_day, "m", tenant="acme") == ()
    assert [item.reason for item in policy.overrides_for(0, "m")] == ["day"]
