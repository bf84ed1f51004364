"""What the shape of a policy has and this version does not do yet: one table, and nothing is silently ignored.

A row is deleted on the day its feature works. Rows look at the plain data, so that they see what they refuse
even where the rest of the policy is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from llmshield.policy.findings import Path
from llmshield.policy.report import Report

Tree: TypeAlias = dict[str, Any]
Refused: TypeAlias = Callable[[Any], bool]


class Row(NamedTuple):
    """One thing that is not built.

    `key` is its path, `*` for any name or index; `refused` says which values of it are not built; `instead` is
    what to do until then.
    """

    code: str
    key: str
    refused: Refused
    instead: str


def _one_of(*words: str) -> Refused:
    return lambda value: value in words


ROWS: tuple[Row, ...] = (
    Row("LS911", "audit.required", lambda value: value is True, "write false: records are best effort"),
    Row("LS912", "audit.content", _one_of("masked", "full"), "write none, or leave it out"),
)


def refuse(tree: Tree, report: Report) -> None:
    """Report everything in the policy that is not built yet."""
    for row in ROWS:
        for path, value in _select(tree, tuple(row.key.split("."))):
            if row.refused(value):
                what = row.key.replace(".*", "") + (f": {value}" if isinstance(value, str) else "")
                report.add(row.code, path, f"not built yet: {what}; {row.instead}")


def _select(value: Any, pattern: tuple[str, ...], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value at `pattern` with its path; `*` goes through a mapping's names or a list's items."""
    if not pattern:
        yield path, value
    elif pattern[0] == "*":
        items: Any = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for step, item in items:
            yield from _select(item, pattern[1:], (*path, step))
    elif isinstance(value, dict) and pattern[0] in value:
        yield from _select(value[pattern[0]], pattern[1:], (*path, pattern[0]))
