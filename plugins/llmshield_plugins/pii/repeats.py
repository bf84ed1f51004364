"""The same value elsewhere in the call: found once by its surroundings, it is hidden wherever it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.settings import EntityRule

SHORTEST = 6
"""Characters of a value that is looked for elsewhere; shorter ones stand in too many words."""

MOST = 256
"""Values that are looked for; more would make the work grow with the square of the text."""


def repeats(
    values: Sequence[str], found: list[list[Found]], rules: Mapping[str, EntityRule]
) -> list[list[Found]]:
    """`found`, for each text, with every further occurrence of the values in any of the texts."""
    known: dict[str, Found] = {}
    for value, items in zip(values, found, strict=True):
        for item in items:
            if rules[item.kind].action != "flag" and item.end - item.start >= SHORTEST and len(known) < MOST:
                known.setdefault(value[item.start : item.end], item)
    return [_with(value, items, known) for value, items in zip(values, found, strict=True)]


def _with(text: str, items: list[Found], known: Mapping[str, Found]) -> list[Found]:
    more: list[Found] = []
    for value, first in known.items():
        for start in _places(text, value):
            end = start + len(value)
            if not any(start < item.end and item.start < end for item in (*items, *more)):
                more.append(Found(start, end, first.kind, first.score))
    return sorted([*items, *more]) if more else items


def _places(text: str, value: str) -> Iterator[int]:
    """Where `value` stands in `text`, not as the middle of a longer word or number."""
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        if not (_joins(text[start - 1 : start], value[0]) or _joins(text[end : end + 1], value[-1])):
            yield start
        start = text.find(value, end)


def _joins(neighbour: str, edge: str) -> bool:
    return neighbour.isascii() and neighbour.isalnum() and edge.isalnum()
