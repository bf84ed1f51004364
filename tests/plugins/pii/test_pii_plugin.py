"""The plugin at its two hooks: what is sent, what comes back, what is refused and reported."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from llmshield import clock
from llmshield.call import Channel, Finding
from llmshield.testing import call as read_call
from llmshield.testing import run_hook
from llmshield.verdicts import Block
from llmshield_plugins.pii import Pii
from llmshield_plugins.pii.kinds import BROAD, KNOWN, OWN

MAIL, CARD, SSN = "john.doe@example.com", "4111 1111 1111 1111", "536-22-8726"


def test_every_text_gets_the_same_placeholder_and_the_answer_is_restored(desk: Callable[..., Any]) -> None:
    at = desk()
    call = at.call(
        ("system", f"Owner: {MAIL}"),
        f"I am {MAIL}, card {CARD}",
        ("assistant", f"ok {MAIL}"),
        ("tool", MAIL),
        ("metadata", MAIL),
    )

    assert at.sent(call) == [
        "Owner: <EMAIL_ADDRESS_1>",
        "I am <EMAIL_ADDRESS_1>, card <CREDIT_CARD_1>",
        "ok <EMAIL_ADDRESS_1>",
        "<EMAIL_ADDRESS_1>",
        "<EMAIL_ADDRESS_1>",
    ]
    assert f"Dear {MAIL}: {CARD}!" == at.got(call, ["Dear <EMAIL_ADDR", "ESS_1>: <credit_", "card_1>!"])


@pytest.mark.parametrize(
    ("rule", "sent"),
    [
        ({"action": "replace"}, "card <CREDIT_CARD_1> ok"),
        ({"action": "mask", "keep_last": 4}, "card **** **** **** 1111 ok"),
        ({"action": "mask"}, "card **** **** **** **** ok"),
        ({"action": "redact"}, "card <CREDIT_CARD> ok"),
        ({"action": "flag"}, f"card {CARD} ok"),
        ("replace", "card <CREDIT_CARD_1> ok"),
    ],
)
def test_actions(desk: Callable[..., Any], rule: Any, sent: str) -> None:
    at = desk(entities={"CREDIT_CARD": rule})
    call = at.call(f"card {CARD} ok")
    got = at.sent(call)[0]

    assert sent == got
    assert any(isinstance(p, Finding) and p.type == "CREDIT_CARD" for p in call._proposals)


def test_a_hash_depends_on_value_and_key(desk: Callable[..., Any]) -> None:
    def sent(key: str, text: str) -> str:
        at = desk(entities={"EMAIL_ADDRESS": {"action": "hash"}}, hash_key=key)
        return str(at.sent(at.call(text))[0])

    assert sent("a", MAIL) == sent("a", MAIL)
    assert sent("a", MAIL) != sent("b", MAIL)
    assert sent("a", MAIL) != sent("a", "x" + MAIL)
    assert MAIL not in sent("a", MAIL)


def test_a_blocked_kind_names_rule_and_place_and_not_the_value(desk: Callable[..., Any]) -> None:
    at = desk(entities={"US_SSN": {"action": "block"}, "*": {"action": "replace"}})
    call = at.call("hello", f"my ssn {SSN} and {MAIL}")
    at.sent(call)

    assert (
        Block("Blocked by policy 'pii': US_SSN in messages[1].content.", param="messages[1].content")
        == at.verdict
    )
    assert SSN not in repr(call._proposals)


def test_only_the_roles_in_scan_and_metadata(desk: Callable[..., Any]) -> None:
    at = desk(scan=("user",))
    call = at.call(
        ("system", MAIL), MAIL, ("assistant", "x" + MAIL), ("tool", "y" + MAIL), ("metadata", "z" + MAIL)
    )

    assert at.sent(call) == [MAIL, "<EMAIL_ADDRESS_1>", "x" + MAIL, "y" + MAIL, "<EMAIL_ADDRESS_2>"]
    assert len(at.filters(call)) == 1


def test_kinds_that_are_not_configured_stay(desk: Callable[..., Any]) -> None:
    at = desk(entities={"CREDIT_CARD": {}})
    call = at.call(f"{MAIL} {CARD}")

    assert [f"{MAIL} <CREDIT_CARD_1>"] == at.sent(call)


def test_min_score_and_allow_list(desk: Callable[..., Any]) -> None:
    at = desk(
        entities={"PHONE_NUMBER": {"min_score": 0.7}, "EMAIL_ADDRESS": {}}, allow=("Support@Example.com",)
    )
    call = at.call("ring 01 23 45 67 89 or +1 212 555 0187 or support@example.com")

    assert at.sent(call) == ["ring 01 23 45 67 89 or <PHONE_NUMBER_1> or support@example.com"]


def test_a_value_is_found_again_without_its_context(desk: Callable[..., Any]) -> None:
    at = desk()
    call = at.call("my password is Xk7-qq99z", "is Xk7-qq99z good? aXk7-qq99zb")

    assert at.sent(call) == ["my password is <API_KEY_1>", "is <API_KEY_1> good? aXk7-qq99zb"]


@pytest.mark.parametrize(
    "written",
    [
        "<EMAIL_ADDRESS_1>",
        "EMAIL_ADDRESS_1",
        "<email_address_1>",
        "<EMAIL\\_ADDRESS\\_1>",
        "see EMAIL ADDRESS 1",
    ],
)
def test_nobody_fetches_a_value_by_writing_its_placeholder(desk: Callable[..., Any], written: str) -> None:
    at = desk(scan=("user",))
    call = at.call(("system", f"You may say {written}"), f"I am {MAIL}")

    assert at.sent(call)[1] == "I am <EMAIL_ADDRESS_2>"
    assert (
        at.got(call, [f"{written} <EMAIL_ADDRESS_1> <EMAIL_ADDRESS_2>"])
        == f"{written} <EMAIL_ADDRESS_1> {MAIL}"
    )


def test_another_calls_placeholders_stay(desk: Callable[..., Any]) -> None:
    at = desk()
    one, other = at.call(f"I am {MAIL}"), at.call("I am nobody")
    at.sent(one)
    at.sent(other)

    assert at.got(other, ["<EMAIL_ADDRESS_1>"]) == "<EMAIL_ADDRESS_1>"
    assert MAIL not in repr(one.state)


def test_restore_can_be_switched_off(desk: Callable[..., Any]) -> None:
    at = desk(restore=False)
    call = at.call(MAIL)
    at.sent(call)

    assert at.got(call, ["<EMAIL_ADDRESS_1>"]) == "<EMAIL_ADDRESS_1>"


def test_what_the_model_writes_is_treated_and_never_restored(desk: Callable[..., Any]) -> None:
    at = desk(entities={"*": {}, "CREDIT_CARD": {"action": "mask", "keep_last": 4}})
    call = at.call(f"I am {MAIL}")
    at.sent(call)
    answer = f"<EMAIL_ADDRESS_1> and new@other.org, again new@other.org, {CARD}, and {MAIL}"
    expected = f"{MAIL} and <EMAIL_ADDRESS_2>, again <EMAIL_ADDRESS_2>, **** **** **** 1111, and {MAIL}"

    for size in (1, 3, 1000):
        assert expected == at.got(call, [answer[i : i + size] for i in range(0, len(answer), size)])
    arguments = Channel("tool_arguments", 0, 0, ("to",), "send_mail")

    assert at.got(call, ["<EMAIL_ADD", "RESS_1>"], arguments) == MAIL


def test_a_blocked_kind_stops_the_answer(desk: Callable[..., Any]) -> None:
    at = desk(entities={"US_SSN": {"action": "block"}})
    call = at.call("hello")
    at.sent(call)

    assert at.got(call, list(f"It is {SSN} as you know")) == "It is !STOP"


def test_flagged_output_passes(desk: Callable[..., Any]) -> None:
    at = desk(entities={"US_SSN": {"action": "flag"}})
    call = at.call("hello")

    assert at.got(call, list(f"It is {SSN} as you know")) == f"It is {SSN} as you know"


def test_work_ends_at_the_deadline(desk: Callable[..., Any]) -> None:
    at = desk()
    call = at.call(f"{MAIL} " * 10)
    call.deadline = clock.monotonic() - 1

    with pytest.raises(TimeoutError):
        at.plugin.pre_request(call)


def test_what_was_clean_before_is_not_looked_at_again(
    desk: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = desk()
    suspects, seen = at.plugin._walker.suspects, []
    monkeypatch.setattr(at.plugin._walker, "suspects", lambda text: (seen.append(text), suspects(text))[1])
    clean = "The garden committee meets again next week to talk about the fence."
    for new in ("short", f"write to {MAIL}", "short"):
        at.plugin.pre_request(at.call(clean, new))

    assert seen == [f"{clean}\nshort", f"write to {MAIL}", "short"]


def test_a_clean_call_costs_no_state(desk: Callable[..., Any]) -> None:
    at = desk()
    call = at.call("hello", "nothing here")
    at.sent(call)

    assert call.state == {}
    assert call._proposals == []


def test_joined_output_is_the_oracles_with_restore(
    desk: Callable[..., Any], make_text: Callable[[random.Random], str]
) -> None:
    at = desk()
    call = at.call(f"{MAIL} {CARD}")
    at.sent(call)
    for seed in range(100):
        rng = random.Random(seed)
        text = make_text(rng) + rng.choice(("<EMAIL_ADDRESS_1>", "<CREDIT_CARD_1>")) + make_text(rng)
        size = rng.choice((1, 2, 5, 17))

        assert at.got(call, [text]) == at.got(call, [text[i : i + size] for i in range(0, len(text), size)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entities": {"EMAIL_ADRESS": {}}}, "did you mean 'EMAIL_ADDRESS'"),
        ({"entities": {"PERSON": {}}, "names": False}, "names: true"),
        ({"entities": {"EMAIL_ADDRESS": {"action": "blok"}}}, "action"),
        ({"entities": {"EMAIL_ADDRESS": {"keep": 1}}}, "keep"),
        ({"entities": {"DE_KFZ": {}}, "presidio": False}, "needs presidio"),
        ({"scan": ["usr"]}, "scan"),
        ({"recognisers": [{"kind": "X_ID", "patterns": [{"regex": "(?=a)b"}]}]}, "google-re2"),
        ({"recognisers": [{"kind": "X_ID", "patterns": [{"regex": "a*"}]}]}, "empty text"),
        ({"recognisers": [{"kind": "X_ID", "patterns": [{"regex": "ab+"}]}]}, "hold_back"),
        ({"recognisers": [{"kind": "X_ID"}]}, "neither"),
        ({"recognisers": [{"kind": "X_1", "deny": ["a b"]}]}, "digit"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_wrong_settings_say_what_is_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Pii.Settings(**settings)


async def test_a_missing_hash_key_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = None
    monkeypatch.delenv("PII_KEY", raising=False)
    with pytest.raises(ValueError, match="PII_KEY"):
        await Pii(Pii.Settings(presidio=False, hash_key="env://PII_KEY")).start(nothing)
    monkeypatch.setenv("PII_KEY", "k")
    await Pii(Pii.Settings(presidio=False, hash_key="env://PII_KEY")).start(nothing)


def test_recognisers_of_ones_own(desk: Callable[..., Any]) -> None:
    at = desk(
        recognisers=(
            {
                "kind": "EMPLOYEE_ID",
                "patterns": ({"regex": r"\bemp[- ]?[0-9]{5}\b", "score": 0.3, "context": ("staff",)},),
            },
            {"kind": "PROJECT", "deny": ("Blue Falcon", "C++")},
        )
    )
    call = at.call("staff emp 12345, BLUE FALCON in C++; " + "x" * 90 + " emp 54321")

    assert at.sent(call) == ["staff <EMPLOYEE_ID_1>, <PROJECT_1> in <PROJECT_2>; " + "x" * 90 + " emp 54321"]


def test_star_covers_everything_but_the_broad_kinds() -> None:
    rules = Pii(Pii.Settings(presidio=False))._rules

    assert set(rules) >= OWN
    assert not BROAD & set(rules)
    assert KNOWN >= OWN


def test_scanner_gives_a_verdict_for_anything() -> None:
    scanner = Pii.scanner(Pii.Settings(presidio=False, entities={"*": {}, "US_SSN": {"action": "block"}}))

    assert scanner.scan("")["action"] == "allow"
    assert scanner.scan("hello")["spans"] == []
    assert scanner.scan(SSN)["action"] == "block"
    verdict = scanner.scan(f"\ud83d {MAIL}", "tool")
    assert (verdict["action"], verdict["score"], verdict["families"]) == ("flag", 1.0, ["EMAIL_ADDRESS"])
    assert [{"start": 2, "end": 2 + len(MAIL), "type": "EMAIL_ADDRESS", "score": 1.0}] == verdict["spans"]
    assert scanner.scan("word \u00e9 " * 20_000)["action"] == "allow"


async def test_a_text_that_was_clean_is_not_searched_again(
    desk: Callable[..., Any], monkeypatch: Any
) -> None:
    plugin = desk().plugin
    searched: list[str] = []
    whole = plugin._walker.whole
    monkeypatch.setattr(
        plugin._walker, "whole", lambda text, *more: searched.append(text) or whole(text, *more)
    )
    clean = "The order 12 345 678 90 was shipped on 2024-03-12 in 3 parcels, the invoice is on its way."
    for _ in range(2):
        seen = await run_hook(plugin, "pre_request", read_call(clean))
        assert seen.action == "allow"
        seen = await run_hook(plugin, "pre_request", read_call(f"{clean} Ask john.doe@example.com."))
        assert seen.action == "redact"

    assert searched.count(clean) == 1
