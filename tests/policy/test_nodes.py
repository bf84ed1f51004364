"""Reading YAML: what is data, what is refused and how fast, and that nothing else is ever raised."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.policy import nodes
from llmshield.policy.nodes import decode, read

DATA = [
    ("a: on", {"a": "on"}),
    ("on: yes", {"on": "yes"}),
    ("a: 2027-01-31", {"a": "2027-01-31"}),
    ("a: 12:30", {"a": "12:30"}),
    ("a: true\nb: FALSE\nc: ~\nd:", {"a": True, "b": False, "c": None, "d": None}),
    ("a: 0o17\nb: 0x1F\nc: 017\nd: -5", {"a": 15, "b": 31, "c": 17, "d": -5}),
    ("a: 1.50\nb: .5\nc: 1e3\nd: 1.", {"a": 1.5, "b": 0.5, "c": 1000.0, "d": 1.0}),
    ("a: '1'\nb: \"true\"\nc: |\n  x\n", {"a": "1", "b": "true", "c": "x\n"}),
    ("1: x\ntrue: y\n~: z", {"1": "x", "true": "y", "~": "z"}),
    ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
    ("\ufeffa: 1", {"a": 1}),
    ('a: "\\u2028"', {"a": "\u2028"}),
]

REFUSED = [
    ("nul", "a: 1\nb: \0", "LS101", 2, 4),
    ("escape", "a: \x1b[31m", "LS101", 1, 4),
    ("line separator", "a: 1\u2028b: 2", "LS101", 1, 5),
    ("surrogate", "a: \ud800", "LS101", 1, 4),
    ("size", "a: 1\n" * 100_000, "LS102", 1, 1),
    ("aliases", "a: &a x\nb: [" + "*a," * 50_000 + "]", "LS102", 2, 605),
    (
        "laughs",
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "LS102",
        5,
        8,
    ),
    ("syntax", "a: b: c", "LS103", 1, 5),
    ("tab", "a:\n\tb: 1", "LS103", 2, 1),
    ("open quote", 'a: "x', "LS103", 1, 6),
    ("twice", "a: 1\nb: 2\na: 3", "LS104", 3, 1),
    ("twice in spelling", "a: 1\n'a': 2", "LS104", 2, 1),
    ("many twice", "a: 1\n" * 50_000, "LS104", 2, 1),
    ("python", "a: !!python/object/apply:os.system [x]", "LS105", 1, 4),
    ("tag", "a: !x 1", "LS105", 1, 4),
    ("standard tag", "a: !!str 1", "LS105", 1, 4),
    ("deep", "[" * 100_000, "LS106", 1, 1),
    ("deep mappings", "a: {" * 50_000, "LS106", 1, 125),
    ("deep blocks", "".join(" " * level + "a:\n" for level in range(100)), "LS106", 32, 32),
    (
        "deep through aliases",
        "a: &a " + "[" * 20 + "]" * 20 + "\nb: " + "[" * 20 + "*a" + "]" * 20,
        "LS106",
        2,
        24,
    ),
    ("documents", "a: 1\n---\nb: 1", "LS107", 2, 1),
    ("directive", "%YAML 1.1\n---\na: 1", "LS107", 2, 1),
    ("empty", "", "LS108", 1, 1),
    ("comment only", "# nothing\n", "LS108", 1, 1),
    ("null", "null", "LS108", 1, 1),
    ("list", "- a", "LS108", 1, 1),
    ("text", "just text", "LS108", 1, 1),
    ("list key", "? [a]\n: b", "LS109", 1, 3),
    ("merge key", "a: &a {x: 1}\nb: {<<: *a}", "LS109", 2, 5),
    ("unknown alias", "a: *b", "LS110", 1, 4),
    ("alias in itself", "a: &a [*a]", "LS110", 1, 8),
    ("infinity", "a: .inf", "LS112", 1, 4),
    ("not a number", "a: .nan", "LS112", 1, 4),
    ("overflow", "a: 1e999", "LS112", 1, 4),
    ("digits", "a: " + "9" * 100_000, "LS112", 1, 4),
]


@pytest.mark.parametrize(("text", "expected"), DATA)
def test_data(text: str, expected: Any) -> None:
    root, flaws = read(text)

    assert flaws == []
    assert root is not None
    assert expected == root.plain()


@pytest.mark.parametrize(
    ("text", "code", "line", "column"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused(text: str, code: str, line: int, column: int) -> None:
    _, flaws = read(text)

    assert (code, line, column) == (flaws[0].code, flaws[0].line, flaws[0].column)


@pytest.mark.parametrize("text", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_at_once(text: str) -> None:
    """0.1 s for hostile text, in CPU time, since test machines are shared."""
    gc.disable()  # a collection would walk the objects of all tests before
    try:
        start = time.thread_time()
        read(text)
        took = time.thread_time() - start
    finally:
        gc.enable()

    assert took < 0.1


def test_findings_of_the_text_are_bounded() -> None:
    _, flaws = read("a: 1\n" * 5_000)

    assert len(flaws) == nodes.MAX_FINDINGS + 1


def test_places() -> None:
    root, _ = read("a: 1\nb:\n  - c: [x, yy]\n")
    assert root is not None
    node, mark, taken = root.find(("b", 0, "c", 1))

    assert (node.value, node.line, node.column, node.end) == ("yy", 3, 12, (3, 14))
    assert mark is node
    assert taken == ("b", 0, "c", 1)
    _, mark, taken = root.find(("b", 0, "function-wrap", "missing"))
    assert (mark.line, taken) == (3, ("b", 0))


def test_numbers_keep_their_spelling() -> None:
    root, _ = read("a: 0.10000000000000000001")
    assert root is not None

    assert root.plain()["a"].text == "0.10000000000000000001"


@pytest.mark.parametrize(
    ("data", "code", "line", "column"),
    [
        (b"a: 1\n\xff", "LS101", 2, 1),
        ("ä: ".encode() + b"\xc3", "LS101", 1, 4),
        ("a: 1".encode("utf-16"), "LS101", 1, 1),
        (b"x" * (nodes.MAX_BYTES + 1), "LS102", 1, 1),
    ],
)
def test_bytes(data: bytes, code: str, line: int, column: int) -> None:
    _, flaw = decode(data)

    assert flaw is not None
    assert (code, line, column) == (flaw.code, flaw.line, flaw.column)


yamlish = st.text(alphabet="ab:-[]{}&*!|>'\"#%@,?\n \t\r0.~<\u2028\ufeff\ud800é", max_size=60)


@settings(max_examples=500, deadline=None)
@given(yamlish | st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    root, flaws = read(text)

    assert root is not None or flaws
    assert all(flaw.line >= 1 and flaw.column >= 1 for flaw in flaws)
