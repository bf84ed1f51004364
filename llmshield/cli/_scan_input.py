"""What `llmshield scan` reads: JSON lines, plain lines or a table, each row a text and whose it is."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

Format: TypeAlias = Literal["jsonl", "text", "csv"]
ROLES = ("system", "user", "assistant", "tool", "output")
_FIELD = 64 * 1024 * 1024
"""Characters of one cell of a table: csv's own limit of 128 KiB is less than a long prompt has."""


class Item(NamedTuple):
    """One text to be judged: `number` is its line or row, from 1; `error` says why there is none."""

    number: int
    text: str
    role: str = "user"
    error: str | None = None


def read(stream: BinaryIO, form: Format, column: str) -> Iterator[Item]:
    """The texts of a stream, as they arrive; empty lines of `jsonl` and `text` are left out.

    Raises: ValueError when a table has no column of that name.
    """
    if form == "csv":
        yield from _table(stream, column)
        return
    for number, line in enumerate(stream, 1):
        if form == "text":
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text:
                yield Item(number, text)
        elif line.strip():
            yield _object(number, line)


def _object(number: int, line: bytes) -> Item:
    try:
        given = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return Item(number, "", error="the line is not JSON")
    text = given.get("text") if isinstance(given, dict) else None
    role = given.get("role", "user") if isinstance(given, dict) else None
    if not isinstance(text, str):
        return Item(number, "", error='expected an object with a string "text"')
    if role not in ROLES:
        return Item(number, "", error=f"role is none of {', '.join(ROLES)}")
    return Item(number, text, role)


def _table(stream: BinaryIO, column: str) -> Iterator[Item]:
    csv.field_size_limit(min(_FIELD, sys.maxsize))
    lines: Iterable[str] = io.TextIOWrapper(stream, "utf-8-sig", "replace", newline="")
    rows = csv.DictReader(lines)
    try:
        names = rows.fieldnames or []
        if column not in names:
            have = ", ".join(repr(name) for name in names) or "no header"
            raise ValueError(f"the table has no column {column!r}; it has: {have}. Name one with --column.")
        for number, row in enumerate(rows, 2):
            text, role = row.get(column), row.get("role") if column != "role" else None
            if text is None:
                yield Item(number, "", error=f"the row has no cell {column!r}")
            elif role and role not in ROLES:
                yield Item(number, "", error=f"role is none of {', '.join(ROLES)}")
            else:
                yield Item(number, text, role or "user")
    except csv.Error as error:
        raise ValueError(f"the table can't be read behind line {rows.line_num}: {error}") from None
