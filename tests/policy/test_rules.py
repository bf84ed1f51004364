"""What rules must leave alone: the other side of the cases in test_loader.py."""

from __future__ import annotations

from typing import Any

import pytest

from llmshield import clock

QUIET = [
    "providers: {a: {dialect: openai, base_url: 'http://127.0.0.1:9/v1'}}",
    "providers: {a: {dialect: openai, base_url: 'http://localhost:9/v1/'}}",
    "providers: {a: {dialect: openai, base_url: 'http://[::1]:9/v1'}}",
    "providers: {a: {dialect: openai, base_url: 'http://127.8.9.1/openai/v1'}}",
    "providers: {a: {dialect: openai, base_url: 'https://h.example/v1beta/openai'}}",
    "providers: {a: {dialect: openai, base_url: 'http://far.example/v1', insecure: true}}",
    "providers: {a: {dialect: openai, base_url: 'http://far.example/v1', connect: '127.0.0.1:8080'}}",
    "providers: {a: {dialect: anthropic, base_url: 'https://h.example'}}",
    "providers: {a: {dialect: gemini, base_url: 'https://h.example/proxy'}}",
    "providers: {app: {prices: {input: 1, output: 2}, models: {deny: x}, circuit: {}}}\nplugins: [{use: failover}]",
    "providers: {a: {dialect: openai}, b: {dialect: openai}}",
    "server: {admin: null}",
    "server: {listen: '127.0.0.1:0', admin: '127.0.0.1:0'}",
    "server: {store: 'memory://'}",
    "server: {store: 'rediss://h:6379/0'}",
    "routes: [{match: {model: a*}, to: [app]}, {match: {model: b*}, to: [app]}, {match: {any: true}, deny: {}}]",
    "routes: [{match: {model: a*, tenant: x}, to: [app]}, {match: {model: a1}, to: [app]}]",
    "routes: [{match: {model: 'a?'}, to: [app]}, {match: {model: 'a*'}, to: [app]}]",
    "routes: [{match: {tags: {a: x}}, to: [app]}, {match: {tags: {b: x}}, to: [app]}]",
    "routes: [{match: {any: true}, deny: {message: '${x}'}}]",
    "tenants: {a: {}, anonymous: {}}",
    "identify: ['header:x-t']\ntrusted_proxies: ['::1']",
    "tiers: {a: {budget: 1 USD/day, rate: 1/hour}}\nplugins: [{use: ./no_competitors.py}]",
    "x: &p {dialect: openai}\nproviders: {a: *p, b: *p}",
]


@pytest.mark.parametrize("text", QUIET)
def test_no_finding(text: str, judge: Any) -> None:
    _, findings = judge(f"version: 1\n{text}")
    findings = [item for item in findings if item.path != "x"]

    assert not findings, "\n".join(map(str, findings))


def test_an_override_ends_by_the_clock(judge: Any) -> None:
    text = (
        "version: 1\nplugins: [{use: ./no_competitors.py}]\noverrides: "
        "[{match: {any: true}, plugins: {no_competitors: {}}, reason: r, until: 2027-01-31}]"
    )

    class Clock(clock.SystemClock):
        at = 0.0

        def now(self) -> float:  # type: ignore[override]
            return self.at

    still = Clock()
    before = clock.install(still)
    try:
        still.at = 1801439999.0  # 2027-01-31 23:59:59 UTC
        assert judge(text)[1] == ()
        still.at += 1
        assert [item.code for item in judge(text)[1]] == ["LS313"]
    finally:
        clock.install(before)


@pytest.mark.parametrize(
    ("first", "second", "covered"),
    [
        ("{any: true}", "{tenant: x}", True),
        ("{model: x}", "{model: x}", True),
        ("{model: [x, y]}", "{model: y, tenant: a}", True),
        ("{model: 'a*'}", "{model: 'ab*c'}", True),
        ("{model: 'a*'}", "{model: [ab, c]}", False),
        ("{model: 'a?'}", "{model: 'a?'}", True),
        ("{model: '?'}", "{model: '*'}", False),
        ("{tags: {a: x}}", "{tags: {a: x, b: y}}", True),
        ("{tags: {a: x}}", "{model: m}", False),
        ("{tier: pro}", "{tier: pro, model: m}", True),
    ],
)
def test_unreachable(first: str, second: str, covered: bool, judge: Any) -> None:
    findings = judge(
        f"version: 1\ntiers: {{pro: {{}}}}\nroutes:\n- {{match: {first}, to: [app]}}\n- {{match: {second}, to: [app]}}"
    )[1]

    assert (["LS303"] if covered else []) == [item.code for item in findings]
