"""One record is one line of ASCII JSON, whatever it names; secrets and addresses are not in it."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield import redact, senders
from llmshield.call import Attempt, Call, Finding, Reply, Usage
from llmshield.chain import Took
from llmshield.exchange import Exchange, Incoming
from llmshield.identity import Caller
from llmshield.records import LONGEST_VALUE, call_record, other_record, quoted, usd

SECRET = "sk-proj-Qz81xW73LmTTbA0Kd9"


async def no_body(limit):
    return b""


def exchange(name="gpt-4o"):
    """An exchange in which everything that others choose is `name`."""
    incoming = Incoming("POST", b"/", b"", [], "203.0.113.7", no_body)
    x = Exchange(incoming, SimpleNamespace(started=True), "01J", 0.0)
    x.path, x.operation, x.why = name, "generate", name
    x.caller = Caller(name, name, name, None, name)
    x.dialect = SimpleNamespace(name="openai_chat")
    x.call = Call(id="01J", dialect="openai_chat", family="openai", operation="generate", model=name, body={})
    x.call.unseen.append(name)
    x.call.tags[name] = name
    x.overrides = (name,)
    made = Attempt(x.call, number=1, provider="openai", model=name, dialect="openai_chat", body={})
    made.outcome, made.ended_at, made.prices, made.lost = "ok", 1.0, name, [name]
    x.attempts.append(made)
    x.trail.took.append(
        Took("pii", "pre_request", "redact", True, 1.5, (Finding(name, name, 0.9, name, 2),), name)
    )
    x.reply = Reply(provider="openai", model=name, dialect="openai_chat", stream=False)
    x.reply.usage = Usage(input=10**30, output=5)
    return x


def written(x):
    return call_record(
        x,
        kind="call",
        action=x.action,
        policy='"sha256:1"',
        status=200,
        latency_s=1.0,
        overhead_s=0.1,
        hashed=lambda value: "hmac:1",
    )


HOSTILE = [
    "a\r\nb", "\x1b[31m", "a\u2028b\u2029c\x85", "\u202eevil", "x" * 1_000_000, "\ud83d", f"key {SECRET}", SECRET[::-1],
    '"}\n{"seq":1', "漢字", "\x00", "",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_stays_one_plain_line(value):
    redact.remember(SECRET)
    try:
        text = written(exchange(value))
    finally:
        redact.forget(SECRET)

    record = json.loads(text)

    assert text.isascii()
    assert text.isprintable()
    assert SECRET not in text
    assert SECRET[::-1] not in text
    assert len(text) < 20_000
    assert {name: record[name] for name in ("seq", "hash", "prev") if name in record} == {}
    assert record["input_tokens"] is None  # no whole number of 64 bits
    assert record["output_tokens"] == 5


@given(st.text())
def test_any_text_is_quoted_as_json(text):
    said = json.loads(quoted(text))

    assert len(said) <= 10 * LONGEST_VALUE
    if text.isprintable() and len(text) <= LONGEST_VALUE and redact.redact(text) == text:
        assert said == text


def test_a_secret_that_is_learned_later_is_hidden_from_then_on():
    assert SECRET[4:] + "tail" in written(exchange(SECRET[4:] + "tail"))
    redact.remember(SECRET[4:] + "tail")
    try:
        assert SECRET[4:] not in written(exchange(SECRET[4:] + "tail"))
    finally:
        redact.forget(SECRET[4:] + "tail")


def test_what_the_client_of_this_call_sent_as_a_key_is_hidden():
    senders.hold({"authorization": f"Bearer {SECRET}-of-client"})
    try:
        assert SECRET not in written(exchange(f"{SECRET}-of-client"))
    finally:
        senders.release()


def test_a_record_names_who_what_and_why():
    record = json.loads(written(exchange()))

    assert record["attempts"] == [
        {"provider": "openai", "model": "gpt-4o", "outcome": "ok", "reason": None, "status": None, "ms": 1000.0,
         "cost_usd": None, "prices": "gpt-4o", "dialect": "openai_chat", "lost": ["gpt-4o"]}
    ]  # fmt: skip
    assert record["verdicts"] == [
        {"plugin": "pii", "hook": "pre_request", "action": "redact", "mode": "enforce", "ms": 1.5, "error": "gpt-4o",
         "findings": [{"type": "gpt-4o", "action": "gpt-4o", "count": 2, "score": 0.9, "place": "gpt-4o"}]}
    ]  # fmt: skip
    assert (record["client"], record["key_id"]) == ("hmac:1", "hmac:1")
    assert (record["tags"], record["overrides"]) == ({"gpt-4o": "gpt-4o"}, ["gpt-4o"])


def test_other_records_are_bounded():
    deep = inner = {}
    for _ in range(50):
        inner["a"] = inner = {}

    text = other_record(
        {"kind": "admin", "deep": deep, "many": list(range(1000)), "long": "x" * 1000, "n": 1, "no": None}
    )

    record = json.loads(text)
    assert text.isascii()
    assert len(record["many"]) == 200
    assert len(record["long"]) < 400
    assert (record["n"], record["no"]) == (1, None)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, None),
        (0, "0.000000000000"),
        (1, "0.000000000001"),
        (10**12, "1.000000000000"),
        (9_200_000 * 10**12 + 7, "9200000.000000000007"),
        (-5, "-0.000000000005"),
    ],
)
def test_money_as_an_exact_decimal(amount, text):
    assert usd(amount) == text
