"""Which budgets an attempt falls under, and what a caller is told of one that has no room."""

from typing import Any

import pytest

from llmshield.call import Attempt
from llmshield.ledger import Cap, Refusal
from llmshield.policy import Policy
from llmshield.redact import redact
from llmshield.testing import policy, read
from llmshield_plugins.cost_cap.caps import CapRule, Caps, describe, short

USD = 10**12
POLICY = """
server: {time_zone: Europe/Berlin}
tenants: {acme: {tier: pro}, anonymous: {tier: free}}
tiers:
  free: {budget: 1 USD/day, time_zone: UTC}
  pro: {budget: [1 USD/minute, 5 USD/24h, 20 USD/day, 100 USD/month], warn_at: 50%}
plugins: [{use: cost_cap, caps: CAPS}]
"""


def caps_of(text: str) -> tuple[Policy, Caps]:
    given = policy(POLICY.replace("CAPS", text))
    settings: Any = given.plugins[0].settings
    return given, Caps(given, settings.caps)


def attempt(
    tenant: str = "acme",
    tier: str | None = "pro",
    model: str = "gpt-4o",
    provider: str = "openai",
    **tags: str,
) -> Attempt:
    call = read({"model": model, "messages": []}, tenant=tenant)
    call.tier, call.key_id, call.tags = tier, "9f86d081884c", tags
    return Attempt(call, number=1, provider=provider, model=model, dialect=call.dialect, body=dict(call.body))


def test_a_tiers_budgets_follow_its_zone_and_only_calendar_days_have_one() -> None:
    _, caps = caps_of("[]")

    assert caps.of_attempt(attempt()) == (
        Cap("tenant=acme", USD, "minute", "UTC", (0.5,)),
        Cap("tenant=acme", 5 * USD, "24h", "UTC", (0.5,)),
        Cap("tenant=acme", 20 * USD, "day", "Europe/Berlin", (0.5,)),
        Cap("tenant=acme", 100 * USD, "month", "Europe/Berlin", (0.5,)),
    )
    assert caps.of_tenant("anonymous") == (Cap("tenant=anonymous", USD, "day", "UTC"),)
    assert caps.warns
    assert not caps_of("[]")[1].of_attempt(attempt("x", None))


# rule, what of the attempt differs from acme's gpt-4o at openai, the account or None
RULES: list[tuple[str, dict[str, Any], str | None]] = [
    ("{limit: 1 USD/day}", {}, "cap=%2A"),
    ("{limit: 1 USD/day, by: tenant}", {}, "cap=%2A,tenant=acme"),
    ("{limit: 1 USD/day, by: [model, tenant]}", {}, "cap=%2A,model=gpt-4o,tenant=acme"),
    ("{limit: 1 USD/day, by: [key]}", {}, "cap=%2A,key=9f86d081884c"),
    ("{limit: 1 USD/day, by: [tier, provider]}", {}, "cap=%2A,provider=openai,tier=pro"),
    ("{limit: 1 USD/day, by: [tier]}", {"tier": None}, "cap=%2A,tier="),
    ("{limit: 1 USD/day, by: ['tag:team']}", {"team": "a,b=c"}, "cap=%2A,tag:team=a%2Cb%3Dc"),
    ("{limit: 1 USD/day, by: ['tag:team']}", {}, "cap=%2A,tag:team="),
    ("{limit: 1 USD/day, models: 'gpt-*'}", {}, "cap=gpt-%2A"),
    ("{limit: 1 USD/day, models: [gpt-4o, o1]}", {}, "cap=gpt-4o%2Co1"),
    ("{limit: 1 USD/day, models: 'gpt-*'}", {"model": "claude-3"}, None),
    ("{limit: 1 USD/day, providers: openai}", {}, "cap=%2A%3Bprovider%3Dopenai"),
    ("{limit: 1 USD/day, providers: openai}", {"provider": "azure"}, None),
    ("{limit: 1 USD/day, tenants: ['a*', b], by: tenant}", {}, "cap=%2A%3Btenant%3Da%2A%7Cb,tenant=acme"),
    ("{limit: 1 USD/day, tenants: ['b*']}", {}, None),
    ("{limit: 1 USD/day, tiers: free}", {}, None),
    ("{limit: 1 USD/day, tiers: free}", {"tier": "free"}, "cap=%2A%3Btier%3Dfree"),
    ("{limit: 1 USD/day, keys: '9f86*'}", {}, "cap=%2A%3Bkey%3D9f86%2A"),
    ("{limit: 1 USD/day, keys: '0000*'}", {}, None),
    ("{limit: 1 USD/day, tags: {team: 'red-*'}}", {"team": "red-1"}, "cap=%2A%3Btag%3Ateam%3Dred-%2A"),
    ("{limit: 1 USD/day, tags: {team: 'red-*'}}", {"team": "blue"}, None),
    ("{limit: 1 USD/day, tags: {team: 'red-*'}}", {}, None),
    ("{limit: 1 USD/day, models: 'gpt-*', tenants: acme, tags: {a: b}}", {"a": "b"},
     "cap=gpt-%2A%3Btenant%3Dacme%3Btag%3Aa%3Db"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "differs", "account"), RULES)
def test_rules(rule: str, differs: dict[str, Any], account: str | None) -> None:
    _, caps = caps_of(f"[{rule}]")
    found = caps.of_attempt(attempt(**differs))[len(caps_of("[]")[1].of_attempt(attempt(**differs))) :]

    assert [cap.account for cap in found] == ([account] if account is not None else [])
    for cap in found:
        assert cap == Cap(cap.account, USD, "day", "Europe/Berlin")
        assert caps.on_account(cap.account) == (cap,)


def test_a_rule_has_several_limits_a_zone_and_warnings() -> None:
    _, caps = caps_of(
        "[{limit: [1 USD/hour, 2 USD/day, 3 USD/7d], by: tenant, time_zone: Asia/Tokyo, warn_at: [50%, 90%]}]"
    )
    name, warn_at = "cap=%2A,tenant=acme", (0.5, 0.9)

    assert caps.of_attempt(attempt())[-3:] == (
        Cap(name, USD, "hour", "UTC", warn_at),
        Cap(name, 2 * USD, "day", "Asia/Tokyo", warn_at),
        Cap(name, 3 * USD, "7d", "UTC", warn_at),
    )


@pytest.mark.parametrize(
    "name",
    ["tenant=acme", "cap=%2A", "cap=gpt-%2A,tenant=acme,model=x", "cap=gpt-%2A", "cap=other,tenant=acme"],
)
def test_accounts_of_other_rules(name: str) -> None:
    _, caps = caps_of("[{limit: 1 USD/day, by: tenant, models: 'gpt-*'}]")

    assert caps.on_account(name) == ()
    assert len(caps.on_account("cap=gpt-%2A,tenant=anybody")) == 1


@pytest.mark.parametrize(
    "rule",
    ["{}", "{limit: []}", "{limit: 5}", "{limit: 1 USD/day, by: [colour]}", "{limit: 1 USD/day, time_zone: Berlin}",
     "{limit: 1 USD/day, warn_at: [110%]}", "{limit: 1 USD/fortnight}", "{limit: 1 USD/day, tag: {a: b}}"],
)  # fmt: skip
def test_rules_that_are_refused(rule: str) -> None:
    with pytest.raises(Exception, match="caps"):
        caps_of(f"[{rule}]")


DAY = Cap("tenant=acme", 5 * USD, "day")
AT = 1_795_305_600.0  # 2026-11-22T00:00:00Z
MESSAGES = [
    (Refusal(DAY, 5 * USD, 0, AT), 10,
     "Budget of 5 USD/day for tenant acme is spent (5 USD). Resets 2026-11-22T00:00:00Z."),
    (Refusal(DAY, 5 * USD + 1, USD, AT), 10,
     "Budget of 5 USD/day for tenant acme is spent (5 USD, 1 USD held for calls under way). Resets 2026-11-22T00:00:00Z."),
    (Refusal(DAY, 3 * USD, 2 * USD, AT), 10,
     "Budget of 5 USD/day for tenant acme is held by calls under way (3 USD, 2 USD held for calls under way)."
     " Try again when they are over. Resets 2026-11-22T00:00:00Z."),
    (Refusal(DAY, 4 * USD, 0, AT), USD + 1,
     "Budget of 5 USD/day for tenant acme has 1 USD left (4 USD), and this call may cost 1.000001 USD even with a"
     " short answer. Send less, or wait. Resets 2026-11-22T00:00:00Z."),
    (Refusal(Cap("cap=%2A,model=gpt-4o,tenant=a%2Cb", 2, "month", "Europe/Berlin"), 1, 0, AT - 3_600), 7,
     "Budget of 0.000000000002 USD/month for model gpt-4o, tenant a,b has 0.000000000001 USD left (0.000000000001 USD),"
     " and this call may cost 0.000000000007 USD even with a short answer. Send less, or wait."
     " Resets 2026-11-22T00:00:00+01:00 (Europe/Berlin)."),
    (Refusal(Cap("cap=gpt-%2A%3Btier%3Dfree", USD, "24h"), USD, 0, AT), 7,
     "Budget of 1 USD/24h for calls of gpt-*;tier=free is spent (1 USD). Room comes back from 2026-11-22T00:00:00Z on."),
    (Refusal(Cap("cap=%2A", 0, "day"), 0, 0, AT), 7,
     "Budget of 0 USD/day for all calls is spent (0 USD). Resets 2026-11-22T00:00:00Z."),
]  # fmt: skip


@pytest.mark.parametrize(("refusal", "least", "message"), MESSAGES)
def test_what_a_caller_reads(refusal: Refusal, least: int, message: str) -> None:
    assert describe(refusal, least) == message
    assert redact(message) == message  # amounts and zones look like no key


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (1, "0.000000000001"), (499_999, "0.000000499999"), (10**6, "0.000001"), (USD, "1"), (10 * USD, "10"),
     (1_234_567_890_123, "1.234568")],
)  # fmt: skip
def test_amounts_in_messages(amount: int, text: str) -> None:
    assert short(amount) == text


def test_a_rule_of_old_keeps_its_account() -> None:
    """What was spent under a policy counts under the next one, if its rule is the same."""
    rule = CapRule.model_validate(
        {"limit": "1 USD/day", "by": ["tenant", "model"], "models": ["gpt-*", "o1"]}
    )

    assert rule.compiled("UTC").caps(attempt())[0].account == "cap=gpt-%2A%2Co1,model=gpt-4o,tenant=acme"
