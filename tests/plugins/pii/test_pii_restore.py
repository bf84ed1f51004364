"""Placeholders in an answer: this call's come back in whatever spelling, others never, JSON stays JSON (PII-05)."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable

import pytest

from llmshield_plugins.pii.placeholders import Placeholders
from llmshield_plugins.pii.restore import Originals, Restorer

REPLIES = int(os.environ.get("LLMSHIELD_REPLIES", "1000000"))
"""Replies of the nightly run."""

KINDS = ("EMAIL_ADDRESS", "PERSON", "PHONE_NUMBER", "STREET_ADDRESS", "IBAN_CODE", "PRIVATE_KEY", "UK_NHS")
CHARS = "abcXYZ 0189.@-_\"\\'<>&%\n\t{}[]éß我😀"
WORDS = (
    "Hello ", "I wrote to ", "<b>bold</b> ", "a < b && c > d ", "100 % ", "\\n ", "EMAIL ", "PERSON ", "email_address ", "<", ">", "&lt;",
    "&amp; ", "%3C", "\\u003c", "《", "》 ", "PERSON_", "_1 ", "<EMAIL_ADDRESS_", "`x` ", "**", "# T\n", "- item\n", "1. ", "'s ", "é ",
    "我的 ", "\ud83d ", "snake_case_1 ", "X_PERSON_1 ", "PERSON_1x ",
)  # fmt: skip


def _case(rng: random.Random, name: str) -> str:
    return rng.choice(
        (
            name,
            name,
            name.lower(),
            name.title(),
            name.replace("_", "-"),
            name.replace("_", " "),
            name.replace("_", "\\_"),
        )
    )


Spell = Callable[[random.Random, str, str], tuple[str, str]]
"""A name and its value -> how a model writes it, and what the client is to get."""


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _html(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _url(value: str) -> str:
    from urllib.parse import quote

    return quote(value, safe="")


SPELLINGS: tuple[Spell, ...] = (
    lambda r, n, v: (f"<{_case(r, n)}>", v),
    lambda r, n, v: (f"< {_case(r, n)} >", v),
    lambda r, n, v: (f"&lt;{_case(r, n)}&gt;", _html(v)),
    lambda r, n, v: (f"&LT;{n}&GT;", _html(v)),
    lambda r, n, v: (f"&#60;{n}&#x3E;", _html(v)),
    lambda r, n, v: (f"\\<{n}\\>", v),
    lambda r, n, v: (f"%3c{n}%3E", _url(v)),
    lambda r, n, v: (f"\\u003c{n}\\u003e", _quoted(v)),
    lambda r, n, v: (f"\\\\u003C{n}\\\\u003E", _quoted(_quoted(v))),
    lambda r, n, v: (f"＜{_case(r, n)}＞", v),
    lambda r, n, v: (f"《{n}》", v),
    lambda r, n, v: (f"〈{n}〉", v),
    lambda r, n, v: (f"«{n}»", v),
    lambda r, n, v: (f"<'{n}'>", v),
    lambda r, n, v: (f"<`{n}`>", v),
    lambda r, n, v: (f"<**{n}**>", v),
    lambda r, n, v: (f"<{n}s>", f"{v}s"),
    lambda r, n, v: (f"<{n}'s>", f"{v}'s"),
    lambda r, n, v: (f"<{n}>'s", f"{v}'s"),
    lambda r, n, v: (f" {n} ", f" {v} "),
    lambda r, n, v: (f"[{n}](", f"[{v}]("),
)


def others(rng: random.Random, own: dict[str, str]) -> str:
    """A placeholder that this call has not: unknown, invented, of another call, broken."""
    while True:
        kind = rng.choice((*KINDS, "EMAIL", "DATE", "CUSTOM_KIND"))
        name = f"{kind}_{rng.choice((0, 7, 8, 9, 10, 99, 12345))}"
        if name not in own:
            break
    return rng.choice(
        (
            f"<{name}>",
            f"&lt;{name}&gt;",
            f"《{name}》",
            name,
            f"<{name}",
            f"<{kind}_>",
            f"<{kind}>",
            f"<{name}_1>",
        )
    )


def reply(rng: random.Random) -> tuple[dict[str, str], str, str]:
    """The values of a call, what a model wrote, and what the client is to get."""
    own = {}
    for _ in range(rng.randint(1, 5)):
        own[f"{rng.choice(KINDS)}_{rng.randint(1, 6)}"] = "".join(
            rng.choice(CHARS) for _ in range(rng.randint(3, 20))
        )
    said, due = "", ""
    for _ in range(rng.randint(1, 8)):
        chance = rng.random()
        if chance < 0.45:
            name = rng.choice(list(own))
            one, other = rng.choice(SPELLINGS)(rng, name, own[name])
        elif chance < 0.65:
            one = other = others(rng, own)
        else:
            one = other = rng.choice(WORDS)
            if one in ("<EMAIL_ADDRESS_", "PERSON_", "X_PERSON_1 "):
                one = other = f"{one}; "
        # A blank between, so that two of these do not make a third.
        said, due = f"{said}{one} | ", f"{due}{other} | "
    return own, said, due


def in_pieces(rng: random.Random, own: dict[str, str], text: str) -> str:
    restorer = Restorer(Originals(own))
    size = rng.choice((1, 1, 2, 3, 5, 9, 1000))
    return "".join(restorer.feed(text[i : i + size]) for i in range(0, len(text), size)) + restorer.flush()


def check(seeds: range) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        own, said, due = reply(rng)
        got = in_pieces(rng, own, said)
        assert due == got, (seed, own, said)


def test_own_values_come_back_and_no_others() -> None:
    check(range(2000))


@pytest.mark.nightly
def test_own_values_come_back_and_no_others_nightly() -> None:
    began = time.process_time()
    check(range(10_000, 10_000 + REPLIES))
    print(f"{REPLIES} replies, {time.process_time() - began:.0f} s of CPU")


def test_answers_in_json_stay_json() -> None:
    """A value with quotes and line breaks, put into JSON that a model writes as plain text."""
    for seed in range(500):
        rng = random.Random(seed)
        own = {"PERSON_1": "".join(rng.choice(CHARS) for _ in range(12)), "PRIVATE_KEY_2": 'a\n"b"\\'}
        names = list(own)
        tree = {
            "a": rng.choice(names), "b": [f"x <{rng.choice(names)}> y", 1, None], "c": {"<PERSON_1>": f"\" <{rng.choice(names)}>'s"},
        }  # fmt: skip
        text = json.dumps(tree, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))
        text = rng.choice(("", "\n ", "```json\n", "```\n")) + text.replace(
            "<", rng.choice(("<", "\\u003c"))
        ).replace(">", rng.choice((">", "\\u003e")))
        got = in_pieces(rng, own, text)
        said = json.dumps(tree)
        for name, value in own.items():
            said = said.replace(f"<{name}>", json.dumps(value)[1:-1]).replace(f'"{name}"', json.dumps(value))

        assert json.loads(got[got.index("{") :]) == json.loads(said), (seed, text)


FOUND = (
    "<EMAIL_ADDRESS_1>", "＜ＥＭＡＩＬ＿ＡＤＤＲＥＳＳ＿１＞", "<EMAIL_ADDRESS_１>", "<EMAIL＿ADDRESS＿1>", "<EMAIL\\_ADDRESS\\_1>",
    "<EMAIL\\\\_ADDRESS\\\\_1>", "<EMAIL__ADDRESS__1>", "<EMAIL -_- ADDRESS_1>", "<EMAIL     ADDRESS 1>", "<EMAIL\u3000ADDRESS\u30001>",
    "<email-address-1s>", "EMAIL_ADDRESS_1", "&lt;Email_Address_1&gt;", "%253Cemail_address_1%253E",
)  # fmt: skip


@pytest.mark.parametrize("written", FOUND)
def test_what_would_be_restored_is_given_to_nobody_who_wrote_it(written: str) -> None:
    restorer = Restorer(Originals({"EMAIL_ADDRESS_1": "a@b"}))

    assert "b" in restorer.feed(written) + restorer.flush()
    assert Placeholders(lambda: [f"and {written}"]).give("EMAIL_ADDRESS", "a@b") == "<EMAIL_ADDRESS_2>"


def test_a_call_has_its_own_values_only() -> None:
    """Two calls with the same names and other values, side by side."""
    first, second = Restorer(Originals({"PERSON_1": "Ann"})), Restorer(Originals({"PERSON_1": "Bob"}))
    out = [(first.feed(piece), second.feed(piece)) for piece in ("Hi <PER", "SON_1>", " PERSON_1", ".")]

    assert ["".join(side) for side in zip(*out, strict=True)] == ["Hi Ann Ann.", "Hi Bob Bob."]
