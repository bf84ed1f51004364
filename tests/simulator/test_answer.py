"""What is said: limits, pieces and usage stay consistent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.simulator.answer import Scripted, compose, scripted, scripted_text
from llmshield.simulator.ask import Ask, Tool, count
from llmshield.simulator.directives import Directives

PLAIN = Directives()


def made(ask, want=PLAIN, script=None):
    return compose(ask, want, script, 1, 0)


@given(st.text(max_size=200), st.integers(1, 60), st.booleans(), st.lists(st.text(max_size=9), max_size=9))
def test_never_more_than_the_bound_and_usage_is_the_text(user, bound, thinking, deltas):
    ask = Ask("chat", "m", {}, user=user, max_tokens=bound, thinking=thinking)
    for script in (None, Scripted(text=deltas)):
        answer = made(ask, script=script)
        choice = answer.choices[0]
        said = count("".join(choice.text)) + count("".join(choice.reasoning))

        assert answer.usage.output == said <= bound
        assert (choice.finish == "length") == (
            made(Ask("chat", "m", {}, user=user, thinking=thinking), script=script).usage.output > bound
        )


@given(st.integers(0, 3000))
def test_as_many_tokens_as_asked(tokens):
    answer = made(Ask("chat", "m", {}), Directives(tokens=tokens))

    assert answer.usage.output == tokens
    assert len("".join(answer.choices[0].text)) == 4 * tokens


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_deltas_of_another_size(size):
    tools = (Tool("f", {"type": "object"}),)
    plain, sized = (
        made(Ask("chat", "m", {}, user="hi")),
        made(Ask("chat", "m", {}, user="hi"), Directives(chars=size)),
    )
    called = made(Ask("chat", "m", {}, tools=tools, force="any"), Directives(chars=size)).choices[0]

    assert "".join(plain.choices[0].text) == "".join(sized.choices[0].text)
    assert max(map(len, sized.choices[0].text)) == min(size, 27)
    assert plain.usage == sized.usage
    assert max(map(len, called.tools[0].pieces)) == min(size, 2)


def test_a_bound_cuts_tool_arguments_too():
    tools = (Tool("f", {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}),)
    full = made(Ask("chat", "m", {}, tools=tools, force="any")).choices[0]
    cut = made(Ask("chat", "m", {}, tools=tools, force="any", max_tokens=3)).choices[0]
    none = made(Ask("chat", "m", {}, tools=tools, force="any", max_tokens=1)).choices[0]

    assert (full.finish, full.tools[0].arguments) == ("tool", '{"a": "text"}')
    assert (cut.finish, cut.tools[0].arguments) == ("length", '{"a": "t')
    assert cut.tools[0].parsed == {"_raw": '{"a": "t'}
    assert (none.finish, none.tools) == ("length", [])


def test_the_first_stop_sequence_wins():
    choice = made(Ask("chat", "m", {}, user="x END y STOP", stops=("STOP", "END"))).choices[0]

    assert "".join(choice.text) == "Hello, I am m. You said: x "
    assert choice.stop_sequence == "END"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("hi", Scripted(text="hi")),
        (["a", "b"], Scripted(text=["a", "b"])),
        ({"text": "a", "finish": "length"}, Scripted(text="a", finish="length")),
        (Scripted(status=201), Scripted(status=201)),
    ],
)
def test_script_entries(value, expected):
    assert expected == scripted(value)


@pytest.mark.parametrize("value", [5, None, {"txt": "a"}])
def test_wrong_script_entries(value):
    with pytest.raises(ValueError, match="reply"):
        scripted(value)


def test_script_text():
    assert scripted_text("plain {text}") == Scripted(text="plain {text}")
    assert scripted_text('["a","\\u00e9"]') == Scripted(text=["a", "é"])
    assert scripted_text('{"text":"a","usage":[1,2]}').usage == [1, 2]
    with pytest.raises(ValueError, match="delimiter"):
        scripted_text('{"text" "a"}')
