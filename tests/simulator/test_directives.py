"""Directive text: what it means, and that mistakes do not pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.simulator.directives import (
    DirectiveError,
    Directives,
    from_options,
    from_prompt,
    parse,
    seconds,
    split_model,
)
from llmshield.simulator.table import names

FAULTS = names()

GOOD = [
    ("", {}),
    ("fault=429", {"fault": ("429",)}),
    ("429", {"fault": ("429",)}),
    ("fault=crlf+bom, after=0", {"fault": ("crlf", "bom"), "after": 0}),
    ("fault=cut&after=40", {"fault": ("cut",), "after": 40}),
    ("fault=cut;after=40;", {"fault": ("cut",), "after": 40}),
    ("fault=none", {"fault": ()}),
    ("TTFT=200ms, delay = 0.5, pause=2s", {"ttft": 0.2, "delay": 0.5, "pause": 2.0}),
    ("text=a%2C b%3D%26", {"text": "a, b=&"}),
    ("stable=1, ascii=false", {"stable": True, "ascii": False}),
    ("usage=5:0", {"usage": "5:0"}),
    ("retry-after=-1", {"retry_after": "-1"}),
]


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_good(text, expected):
    assert expected == parse(text, FAULTS)
    Directives(**parse(text, FAULTS))


BAD = [
    ("fualt=429", "unknown directive 'fualt'"),
    ("nonsense", "unknown fault 'nonsense'"),
    ("fault=429+nonsense", "unknown fault 'nonsense'"),
    ("after=many", "after: expected a number"),
    ("chars=0", "chars: expected 1 or more"),
    ("after=-1", "after: expected 0 or more"),
    ("rate=often", "rate: expected a number"),
    ("ttft=soon", "expected seconds"),
    ("delay=-1", "expected seconds"),
    ("delay=nan", "expected seconds"),
    ("body=pdf", "body: expected one of json"),
    ("encoding=lzma", "encoding: expected one of gzip"),
    ("usage=5", "usage: expected IN:OUT"),
    ("usage=-5:2", "usage: expected IN:OUT"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad(text, message):
    with pytest.raises(DirectiveError, match=message):
        parse(text, FAULTS)


def test_options_follow_the_same_rules():
    assert from_options({"fault": ["cut", "crlf"], "ttft": 0.1, "stable": True, "text": None}, FAULTS) == {
        "fault": ("cut", "crlf"),
        "ttft": 0.1,
        "stable": True,
        "text": None,
    }
    for wrong in ({"fault": "cutt"}, {"speed": 1}, {"after": "x"}):
        with pytest.raises(DirectiveError):
            from_options(wrong, FAULTS)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o", ("gpt-4o", "")),
        ("gpt-4o@fault=cut&after=40", ("gpt-4o", "fault=cut&after=40")),
        ("claude-sonnet-4@20250514", ("claude-sonnet-4@20250514", "")),
        ("sim-429", ("sim-429", "429")),
        ("sim-cut-mid-event", ("sim-cut-mid-event", "cut_mid_event")),
        ("sim-unknown", ("sim-unknown", "")),
    ],
)
def test_models(model, expected):
    assert expected == split_model(model, FAULTS)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hello", ("hello", "")),
        ("[[simulate fault=429]] hello", ("hello", "fault=429")),
        ("a [[simulate ttft=1]] b [[simulate delay=2]]", ("a  b", "ttft=1,delay=2")),
        ("[[simulate open", ("[[simulate open", "")),
    ],
)
def test_prompts(prompt, expected):
    assert expected == from_prompt(prompt)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0.0), ("2", 2.0), ("2s", 2.0), ("250ms", 0.25), (" 1.5 ", 1.5)]
)
def test_seconds(text, expected):
    assert expected == seconds(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        Directives(**parse(text, FAULTS))
    except DirectiveError:
        pass
