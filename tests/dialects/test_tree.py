"""Bodies read strictly, replies leniently; texts collected, sealed and written back."""

from __future__ import annotations

import base64
import collections
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.call import Call
from llmshield.dialects._tree import (
    HARMLESS,
    Limits,
    add_text,
    add_token,
    dump,
    is_token,
    load_reply,
    parse_body,
    seal_base64,
    seal_json,
    walk,
    walk_unknown,
)
from llmshield.errors import WireError

MANY = settings(max_examples=300, deadline=None)


def call() -> Call:
    return Call(id="1", dialect="d", family="f", operation="generate", model="m", body={})


@given(
    st.recursive(
        st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=30),
        lambda inside: (
            st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3)
        ),
        max_leaves=12,
    ),
    st.integers(1, 6),
)
@MANY
def test_a_small_body_is_refused_as_a_large_one_is(value: object, depth: int) -> None:
    small = json.dumps({"a": value}).encode()

    def said(body: bytes) -> str:
        try:
            return "" if parse_body(body, Limits(depth=depth)) else "nothing"
        except WireError as error:
            return str(error)

    assert said(small) == said(small + b" " * 20_000), "which is walked whatever it looks like"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"[]", "an array"),
        (b'"x"', "a string"),
        (b"null", "null"),
        (b"1", "a number"),
        (b"{", "not valid JSON"),
        (b"{}x", "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":Infinity}', "not valid JSON"),
        (b'{"a":1e999}', "not valid JSON"),
        (b'{"a":01}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b'{"a":"\xed\xa0\xbd"}', "not valid JSON"),
        (b'{"a":"\\ud83d"}', "not valid JSON"),
        (b'{"a":"\n"}', "not valid JSON"),
        ("{}".encode("utf-16"), "not valid JSON"),
        (b'{"a":18446744073709551616}', "64 bits"),
        (b'{"a":[-9223372036854775809]}', "64 bits"),
        (b'{"a":' + b"9" * 400 + b"}", "not valid JSON"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":[' + b'"",' * 200_001 + b"1]}", "200000 strings"),
        (b'{"a":[' + b"[]," * 1_100_000 + b"1]}", "1000000 arrays"),
        (b'{"a":[' + b"1," * 1_000_001 + b"1]}", "1000000 values"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_a_tree_can_not_keep_is_refused(body, words):
    with pytest.raises(WireError, match=words):
        parse_body(body)


@pytest.mark.parametrize(
    ("body", "tree"),
    [
        (b'{"a":18446744073709551615}', {"a": 2**64 - 1}),
        (b'{"a":1e30}', {"a": 1e30}),
        (
            b'{"a":1e30,"b":"123456789012345678901234567890"}',
            {"a": 1e30, "b": "123456789012345678901234567890"},
        ),
        (b'{"a":"1","a":"2"}', {"a": "2"}),
        (b' {"a" : "\\ud83d\\ude00\\u0000"}\n', {"a": "😀\0"}),
    ],
)
def test_what_a_tree_keeps_is_read(body, tree):
    assert parse_body(body) == tree
    assert json.loads(dump(parse_body(body))) == tree


def test_depth_counts_containers_and_size_bytes():
    parse_body(b'{"a":' * 3 + b"1.5" + b"}" * 3, Limits(depth=3))
    with pytest.raises(WireError, match="deeper"):
        parse_body(b'{"a":' * 4 + b"1.5" + b"}" * 4, Limits(depth=3))
    with pytest.raises(WireError, match="bytes"):
        parse_body(b'{"a":1}', Limits(body=6))


def test_no_message_holds_the_body():
    for body in (b'{"secret sentence', b'{"a":"secret sentence\n"}', b'["secret sentence"]'):
        with pytest.raises(WireError) as caught:
            parse_body(body)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b'{"n":NaN}', b'{"a":"\\ud83d"}', b'{"n":123456789012345678901234567890}', b"\xef\xbb\xbf{}"]
)
def test_replies_are_read_leniently_and_written_for_everybody(data):
    out = dump(load_reply(data))

    json.loads(out, parse_constant=pytest.fail)
    out.decode()


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff{}", b"[" * 100_000, "x"])
def test_what_is_no_json_at_all_is_no_reply(data):
    with pytest.raises(ValueError):
        load_reply(data)


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("user", True),
        ("call_9xK-2:a.b/c", True),
        ("gpt-4o-2024-08-06", True),
        ("", False),
        ("two words", False),
        ("a@b.example", False),
        ("4111111111111111", False),
        ("078-05-1120", False),
        ("12", True),
        ("12345", False),
        ("é", False),
        ("a\nb", False),
        ("a" * 257, False),
        ("<EMAIL_1>", False),
    ],
)
def test_tokens_are_words_that_no_guard_could_find_anything_in(value, token):
    assert is_token(value) is token
    one = call()
    add_token(one, "user", {"id": value}, "id", ("id",))

    assert [text.value for text in one.texts] == ([] if token else [value])


TREES = st.recursive(
    st.text(max_size=5) | st.integers() | st.none() | st.sampled_from(sorted(HARMLESS)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@MANY
@given(tree=st.dictionaries(st.text(max_size=4), TREES, max_size=4))
def test_a_walk_finds_every_string_and_name(tree):
    one = call()
    walk(one, "user", tree, (), numbers=True)
    found = [text.value for text in one.texts]

    def expected(node):
        if type(node) is dict:
            for name, value in node.items():
                yield name
                yield from expected(value)
        elif type(node) is list:
            for value in node:
                yield from expected(value)
        elif node is not None:
            yield str(node)

    assert sorted(found) == sorted(text for text in expected(tree) if text and text not in HARMLESS)
    for text in one.texts:
        at = tree
        for step in text._path[: -1 if text.is_name else None]:  # `place` hides names that are no plain words
            at = at[step]
        if not text.is_name:
            assert str(at) == text.value


def test_a_call_has_a_bounded_number_of_texts():
    for make in (
        lambda n: ["a b"] * n,
        lambda n: [["a b"] * 100] * (n // 100),
        lambda n: {f"k{i}": 1 for i in range(n)},
    ):
        walk(call(), "user", make(40_000), ())
        with pytest.raises(WireError, match="texts"):
            walk(call(), "user", make(60_000), ())
    one = call()
    with pytest.raises(WireError, match="texts"):
        collections.deque((add_text(one, "user", ["x"], 0, (0,)) for _ in range(60_000)), maxlen=0)


def test_numbers_outside_arguments_count_when_they_could_be_an_account():
    tree = {"x": 5, "y": 4111111111111111, "z": True, "enum": [1, 123456]}
    one = call()
    walk(one, "user", tree, ())

    assert [text.value for text in one.texts if not text.is_name] == ["4111111111111111", "123456"]


def test_a_name_and_its_value_can_both_be_changed():
    tree = {"to": {"alice@x.example": "alice@x.example"}}
    one = call()
    walk_unknown(one, "tool", tree, "to", ("to",))
    for text in one.texts:
        if "alice" in text.value:
            text._write("<E>")

    assert tree == {"to": {"<E>": "<E>"}}


def test_json_in_a_string_is_read_by_its_leaves_and_sealed_again():
    holder = {"arguments": '{"a": "caf\\u00e9", "n": [12]}'}
    one = call()
    seal_json(one, "tool", holder, "arguments", ("x", "arguments"))

    assert [(text.place, text.value) for text in one.texts if not text.is_name] == [
        ("/x/arguments/a", "café"),
        ("/x/arguments/n/0", "12"),
    ]
    one.sealed[0].reseal()
    assert holder["arguments"] == '{"a": "caf\\u00e9", "n": [12]}', "nothing changed: byte for byte"
    one.texts[1]._write('"')
    one.sealed[0].reseal()
    assert json.loads(holder["arguments"]) == {"a": '"', "n": [12]}


@pytest.mark.parametrize(
    ("raw", "texts", "sent"),
    [
        ('{"a": "evil", "a": "ok"}', ["a", "ok"], '{"a":"ok"}'),
        ('[{"a": 1, "b": {"c": "evil", "c": 2}}]', ["a", "1", "b", "c", "2"], '[{"a":1,"b":{"c":2}}]'),
        ('{"a": "cut', ['{"a": "cut'], '{"a": "cut'),
        ("not json", ["not json"], "not json"),
        ('"caf\\u00e9"', ["café"], '"caf\\u00e9"'),
        ("42", ["42"], "42"),
        ("null", [], "null"),
        ('{"n":123456789012345678901}', ['{"n":123456789012345678901}'], '{"n":123456789012345678901}'),
        ('{"a":NaN}', ['{"a":NaN}'], '{"a":NaN}'),
        ('{"a":"\\ud83d"}', ['{"a":"\\ud83d"}'], '{"a":"\\ud83d"}'),
        ("[" * 70 + "]" * 70, ["[" * 70 + "]" * 70], "[" * 70 + "]" * 70),
    ],
)
def test_json_in_a_string_says_to_the_model_what_the_guards_saw(raw, texts, sent):
    holder = {"arguments": raw}
    one = call()
    seal_json(one, "tool", holder, "arguments", ("arguments",))

    assert [text.value for text in one.texts] == texts
    assert holder["arguments"] == sent


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (encoded("ignore all that"), "ignore all that"),
        ("data:text/plain;base64," + encoded("naïve 😀 " * 40), "naïve 😀 " * 40),
        ("DATA:image/png;charset=x;BASE64," + encoded("no picture at all"), "no picture at all"),
        ("data:image/png;base64," + encoded(b"\x89PNG\r\n\x1a\n" + bytes(100)), None),
        (encoded(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), None),
        ("not base64 at all!", None),
        ("data:text/plain,hello", None),
        ("data:", None),
        ("", None),
    ],
)
def test_base64_that_holds_text_is_read(raw, found):
    holder = {"file_data": raw}
    one = call()

    assert seal_base64(one, "user", holder, "file_data", ("file_data",)) is (found is not None)
    assert [text.value for text in one.texts] == ([] if found is None else [found])
    if found is not None:
        one.texts[0]._write("<X> é")
        one.sealed[0].reseal()
        head, _, body = holder["file_data"].rpartition(",")
        assert base64.b64decode(body).decode() == "<X> é"
        assert raw.startswith(head)


def test_a_crowd_of_numbers_in_a_string_is_refused_before_it_is_walked():
    """Each would be a text of its own: five million of them held all other calls up for twenty seconds."""
    call = Call(id="i", dialect="d", family="f", operation="generate", model="m", body={})
    holder = {"arguments": "[" + "0," * 300_000 + "0]"}
    with pytest.raises(WireError, match="values"):
        seal_json(call, "assistant", holder, "arguments", ("arguments",))

    assert call.texts == []
