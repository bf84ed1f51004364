"""JSON lines, plain lines and tables: what is read, and what is said of a row that can't be."""

from __future__ import annotations

import csv
import io

import pytest

from llmshield.cli import _scan_input
from llmshield.cli._scan_input import Format, Item, read


@pytest.mark.parametrize(
    ("form", "given", "items"),
    [
        ("jsonl", b'{"text": "a"}\n\n{"text": "b", "role": "tool"}', [Item(1, "a"), Item(3, "b", "tool")]),
        ("text", "a b\r\n\nü\n".encode(), [Item(1, "a b"), Item(3, "ü")]),
        ("text", b"\xff", [Item(1, "\ufffd")]),
        ("csv", '\ufefftext,id\n"a\nb",1\nü,2\n'.encode(), [Item(2, "a\nb"), Item(3, "ü")]),
        ("csv", b"role,text\ntool,a\n,b\nking,c\n", [
            Item(2, "a", "tool"), Item(3, "b"), Item(4, "", error="role is none of system, user, assistant, tool, output"),
        ]),
        ("csv", b"id,text\n1\n", [Item(2, "", error="the row has no cell 'text'")]),
        ("csv", b"text\n" + b"x" * 200_000, [Item(2, "x" * 200_000)]),
    ],
)  # fmt: skip
def test_what_is_read(form: Format, given: bytes, items: list[Item]) -> None:
    assert list(read(io.BytesIO(given), form, "text")) == items


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (b"a,b\n1,2\n", "it has: 'a', 'b'"),
        (b"", "no header"),
        (b"text\n" + b"x" * 21, "behind line 1: field"),
    ],
)
def test_a_table_that_can_t_be_read_says_why(
    given: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = csv.field_size_limit()
    monkeypatch.setattr(_scan_input, "_FIELD", 20)
    try:
        with pytest.raises(ValueError, match=says):
            list(read(io.BytesIO(given), "csv", "text"))
    finally:
        csv.field_size_limit(usual)


def test_an_answer_comes_with_each_line() -> None:
    """Lines are not read ahead of: who pipes them one by one gets a verdict for each."""

    class Endless(io.RawIOBase):
        def __iter__(self):
            return self

        def __next__(self):
            return b'{"text": "again"}\n'

    reading = read(Endless(), "jsonl", "text")  # type: ignore[arg-type]
    assert [next(reading).number for _ in range(3)] == [1, 2, 3]
