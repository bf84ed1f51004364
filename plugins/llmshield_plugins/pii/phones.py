"""Phone numbers by the way they are written: international, North American, national with a trunk 0, announced.

Conservative: digits alone are a phone number only when a word says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

from llmshield_plugins.pii.expressions import compiled

# Digits of the national number by country code (ITU-T E.164, national numbering plans); others: 6 to 12.
_NATIONAL = {
    "1": (10, 10), "7": (10, 10), "20": (9, 10), "27": (9, 9), "30": (10, 10), "31": (9, 9), "32": (8, 9),
    "33": (9, 9), "34": (9, 9), "36": (8, 9), "39": (6, 11), "40": (9, 9), "41": (9, 9), "43": (6, 13),
    "44": (9, 10), "45": (8, 8), "46": (7, 10), "47": (8, 8), "48": (9, 9), "49": (6, 11), "51": (8, 9),
    "52": (10, 11), "54": (10, 11), "55": (10, 11), "56": (9, 9), "57": (10, 10), "60": (8, 10), "61": (9, 9),
    "62": (8, 12), "63": (9, 10), "64": (8, 10), "65": (8, 8), "66": (8, 9), "81": (9, 10), "82": (8, 10),
    "84": (9, 10), "86": (10, 11), "90": (10, 10), "91": (10, 10), "92": (9, 10), "94": (9, 9), "98": (10, 10),
}  # fmt: skip
_ANNOUNCED = compiled(
    r"(?i)(?:phone|\bt[ée]l[ée]?f?\b|\btel|\bmob|\bcell|\bcall(?:ed|ing)?\b|\bfax|whats ?app|\bsms\b|\btext (?:me|us|him|her)|"
    r"\bdial|\bhandy|hotline|\bring (?:me|us)|telefon|n[uú]mero|m[oó]vil|celular|contact (?:no|num)|reach (?:me|us|him|her) (?:at|on)|\bph\b|\bph[.:])"
)
_EXTENSION = compiled(r"[ ]{0,2}(?:x|[Ee]xt?\.?|extension|#)[ ]{0,2}[0-9]{1,6}\b")


class Digits(Protocol):
    """One group of digits: their text and where it stands."""

    @property
    def digits(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


Near = Callable[[Any, int], bool]
"""expression, place -> whether a match of it ends shortly before the place"""


def phone(
    text: str, groups: Sequence[Digits], near: Near, *, inside: bool = False
) -> tuple[int, float, int, int] | None:
    """The phone number that begins with the first of these groups: groups used, score, start, end; or None.

    `inside`: the group before is one blank away, so that this may be the middle of a row of numbers.
    """
    start, first_end = groups[0].start, groups[0].end
    before = text[max(0, start - 2) : start]
    plus = before[-1:] == "+" or before == "+("
    opened = before[-1:] == "(" and (plus or ")" in text[first_end : first_end + 6])
    lead = (1 if opened else 0) + (1 if plus else 0)
    announced = near(_ANNOUNCED, start)
    if (
        not plus
        and not announced
        and first_end - start == 1
        and (len(groups) < 4 or groups[1].end - groups[1].start != 3)
    ):
        return None
    sizes = [len(group.digits) for group in groups]
    if not announced and not plus and sum(sizes) < 8:
        return None
    found = (
        (None if inside and not plus else _international(text, groups, plus, announced))
        or _north_american(text, groups, sizes)
        or (None if inside else _trunk_zero(text, groups, announced))
        or (None if inside else _grouped(text, groups, sizes, announced))
        or (_bare(text, groups) if announced else None)
    )
    if found is None:
        return None
    count, score = found
    end = groups[count - 1].end
    after = text[end : end + 1]
    if (after.isalpha() and after not in "xXeE") or after == "_":
        return None
    more = _EXTENSION.match(text[end : end + 16].encode())
    return (
        count,
        min(1.0, score + (0.15 if announced else 0.0)),
        start - lead,
        end + (more.end() if more else 0),
    )


def _joined(text: str, left: Digits, right: Digits, allowed: str = " .-()/") -> bool:
    """Whether people write these two groups as one number."""
    gap = text[left.end : right.start]
    return len(gap) <= 3 and all(c in allowed for c in gap)


def _take(text: str, groups: Sequence[Digits], least: int, most: int) -> int | None:
    """How many of the groups are together `least` to `most` digits, as many as possible."""
    total = 0
    best = None
    for count, group in enumerate(groups, 1):
        if count > 1 and not _joined(text, groups[count - 2], group):
            break
        total += len(group.digits)
        if total > most:
            break
        if total >= least:
            best = count
    return best


def _international(
    text: str, groups: Sequence[Digits], plus: bool, announced: bool
) -> tuple[int, float] | None:
    first = groups[0].digits
    if not plus:
        if not first.startswith("00") or (len(first) == 3 and first[2] not in "17"):
            return None
        first = first[2:] or (groups[1].digits if len(groups) > 1 else "")
    skipped = 0 if plus else 2
    code = next((first[:n] for n in (1, 2) if first[:n] in _NATIONAL), first[:3])
    if not code or code[0] == "0" or (not plus and len(groups) == 1 and not announced):
        return None
    least, most = _NATIONAL.get(code, (6, 12))
    trunk = 1 if "(0)" in text[groups[0].start : groups[min(2, len(groups) - 1)].end] else 0
    count = _take(text, groups, len(code) + least + skipped + trunk, len(code) + most + skipped + trunk)
    return None if count is None else (count, 0.85 if plus else 0.7)


def _north_american(text: str, groups: Sequence[Digits], sizes: list[int]) -> tuple[int, float] | None:
    skip = 1 if sizes[0] == 1 and groups[0].digits == "1" and sizes[1:4] == [3, 3, 4] else 0
    if sizes[skip : skip + 3] == [3, 3, 4]:
        area, office, line = groups[skip : skip + 3]
        gap_one, gap_two = text[area.end : office.start], text[office.end : line.start]
        opened = text[area.start - 1 : area.start] == "("
        if len(gap_one) > 3 or len(gap_two) > 2 or any(c not in " .-()/" for c in gap_one + gap_two):
            return None
        if not opened and gap_one.strip() != gap_two.strip():
            return None
        if _hangs_on(text, groups, skip + 3):
            return None
        valid = area.digits[0] > "1" and office.digits[0] > "1"
        strong = opened or gap_two.strip() in ("-", ".")
        return skip + 3, 0.75 if valid and strong else (0.6 if valid else 0.5 if strong else 0.4)
    if sizes[skip : skip + 2] == [3, 7] and text[groups[skip].start - 1 : groups[skip].start] == "(":
        return skip + 2, 0.6
    return None


def _hangs_on(text: str, groups: Sequence[Digits], count: int) -> bool:
    """Another group follows with a dash or a dot: a longer number than the one that was found."""
    return count < len(groups) and text[groups[count - 1].end : groups[count].start] in ("-", ".", "/")


def _trunk_zero(text: str, groups: Sequence[Digits], announced: bool) -> tuple[int, float] | None:
    """`020 7946 0958`, `01 23 45 67 89`, `0171/1234567`, `(0) 30 ...`; not `01-02-2024`."""
    first = groups[0].digits
    if first[0] != "0" or first[:2] == "00" or len(first) < 2:
        return None
    count = _take(text, groups, 9, 12)
    if count is None or _hangs_on(text, groups, count):
        return None
    if count == 1:
        mobile = len(first) == 11 and first[:2] in ("07", "01", "05", "09")
        return (1, 0.6) if announced else ((1, 0.4) if mobile else None)
    sizes = [len(g.digits) for g in groups[:count]]
    if (
        count < len(groups)
        and text[groups[count - 1].end : groups[count].start] == " "
        and len(groups[count].digits) == sizes[-1] == 2
    ):
        return None  # a row of numbers
    dotted = text[groups[0].end : groups[1].start] == "."
    if (
        sizes[:3] in ([2, 2, 4], [3, 2, 4])  # a date, what looks like a social security number
        or (sizes[:2] == [2, 2] and sizes != [2, 2, 2, 2, 2])
        or (dotted and len(first) < 2)
    ):
        return None
    return count, 0.55


def _grouped(
    text: str, groups: Sequence[Digits], sizes: list[int], announced: bool
) -> tuple[int, float] | None:
    """Shapes that only phone numbers have: India 98765 43210, China 138 1234 5678, Turkey 532 123 45 67,
    Brazil (11) 91234-5678."""
    first = groups[0].digits
    opened = text[groups[0].start - 1 : groups[0].start] == "("
    if sizes[:2] == [5, 5] and first[0] in "6789" and _joined(text, groups[0], groups[1], " -"):
        return (2, 0.45) if len(groups) == 2 or announced else None
    if (
        sizes[:3] == [3, 4, 4]
        and first[0] == "1"
        and first[1] > "2"
        and all(_joined(text, a, b, " -") for a, b in pairwise(groups[:3]))
    ):
        return None if _hangs_on(text, groups, 3) else (3, 0.6)
    skip = 1 if first == "0" else 0
    if (
        sizes[skip : skip + 4] == [3, 3, 2, 2]
        and groups[skip].digits[0] == "5"
        and all(_joined(text, a, b, " -") for a, b in pairwise(groups[: skip + 4]))
    ):
        return None if _hangs_on(text, groups, skip + 4) else (skip + 4, 0.5)
    if opened and sizes[0] in (2, 3, 4, 5) and len(groups) > 1:
        count = _take(text, groups, 8, 12)
        closed = text[groups[0].end : groups[0].end + 1] == ")"
        return (count, 0.7) if count is not None and count > 1 and closed else None
    return None


def _bare(text: str, groups: Sequence[Digits]) -> tuple[int, float] | None:
    """Digits behind a word that says phone."""
    count = _take(text, groups, 7, 13)
    if count is None or _hangs_on(text, groups, count):
        return None
    sizes = [len(g.digits) for g in groups[:count]]
    if sizes[:3] in ([4, 2, 2], [2, 2, 4]) or (sizes == [4, 4] and groups[0].digits[:2] in ("19", "20")):
        return None  # a date, a span of years
    return count, 0.5
