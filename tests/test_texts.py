"""Texts of a call: places that name nobody, renamed keys whose values follow them."""

import hashlib
import time
from typing import Any

import pytest

from llmshield.call import Call, Text
from llmshield.testing import read
from llmshield.texts import CleanTexts, fingerprint


def tool_call(arguments: Any) -> Call:
    return read(
        {
            "model": "m",
            "max_tokens": 5,
            "messages": [
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "f", "input": arguments}],
                }
            ],
        },
        path="/v1/messages",
    )


def names(call: Call) -> list[Text]:
    return [text for text in call.texts if text.is_name]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("city", "city"),
        ("ada@example.com", "*"),
        ("536-90-4399", "*"),
        ("Ada Lovelace", "*"),
        ("x" * 60, "*"),
    ],
)
def test_places_show_plain_words_only(name: str, shown: str) -> None:
    (text,) = [text for text in tool_call({name: "Rome is far"}).texts if text.value == "Rome is far"]

    assert text.place.endswith(f"/input/{shown}")
    assert text.param.endswith(f".input.{shown}")
    assert name in text.place or shown == "*"


def test_the_place_of_a_name_does_not_show_it() -> None:
    """It is what a guard found there: `{"Hermine": ...}` would stand in the message and in the record."""
    (name,) = [text for text in names(tool_call({"Hermine": 1})) if text.value == "Hermine"]

    assert name.place.endswith("/input/*")
    assert name.param.endswith(".input.*")


def test_a_value_follows_its_renamed_key() -> None:
    call = tool_call({"a@b.com": "first text", "z": "second text"})
    tree = call.body["messages"][0]["content"][0]["input"]
    (name,) = [text for text in names(call) if text.value == "a@b.com"]
    (value,) = [text for text in call.texts if text.value == "first text"]
    name._write("<EMAIL_ADDRESS_1>")
    value._write("changed")

    assert [("<EMAIL_ADDRESS_1>", "changed"), ("z", "second text")] == list(tree.items())


def test_two_names_masked_alike_stay_two() -> None:
    call = tool_call({f"user{n}@example.com": f"text of {n}" for n in range(4)})
    tree = call.body["messages"][0]["content"][0]["input"]
    for name in names(call):
        if "@" in name.value:
            name._write("***")

    assert ["***", "***_2", "***_3", "***_4"] == list(tree)
    assert ["text of 0", "text of 1", "text of 2", "text of 3"] == list(tree.values())


def test_renaming_is_linear() -> None:
    call = tool_call({f"user{n}@example.com": n for n in range(20_000)})
    before = time.process_time()
    for name in names(call):
        name._write("***")

    assert time.process_time() - before < 2.0
    assert 20_000 == len(call.body["messages"][0]["content"][0]["input"])


def test_clean_texts_are_known_again_and_never_kept() -> None:
    clean = CleanTexts(size=3)
    keys = [fingerprint(f"text number {number}") for number in range(10)]

    assert keys[0] == fingerprint("text number 0")
    assert len({fingerprint("a"), fingerprint("b"), fingerprint("\ud83d")}) == 3
    assert not hashlib.sha256(b"a").digest().startswith(fingerprint("a")), "a hash says nothing elsewhere"

    clean.add(keys[0])
    for key in keys[1:]:
        assert keys[0] in clean, "what is used stays"
        clean.add(key)

    assert keys[1] not in clean
    assert keys[9] in clean
    assert len(clean._new) + len(clean._old) <= 6


def test_the_fingerprint_of_a_text_follows_its_value() -> None:
    call = tool_call({"a": "one text"})
    text = next(text for text in call.texts if text.value == "one text")
    first = text.fingerprint(text.value)

    assert first == text.fingerprint(text.value) == fingerprint("one text")
    text._write("another text")

    assert text.fingerprint(text.value) == fingerprint("another text")
