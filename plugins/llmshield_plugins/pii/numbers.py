"""Kinds that are digits in groups: cards, social security numbers, phones, bank and other national numbers.

One expression finds runs of digits with anything that people put between them; this file then reads the groups
from left to right and asks, at each group, which kind the next few groups are. Refused by design: dates, times,
versions, ranges, decimal fractions, order numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llmshield_plugins.pii import checksums
from llmshield_plugins.pii.expressions import compiled
from llmshield_plugins.pii.phones import phone

Hit = tuple[int, int, str, float]
"""start, end, kind, score"""

_BETWEEN = r"[ \t.\-_/|,:;~*()+\x03]{0,4}"
RUN = rf"[+(]{{0,2}}[0-9](?:{_BETWEEN}[0-9]){{6,}}"
_RUN = compiled(RUN)
MAX_GROUPS = 19
REACH = 48
"""Characters before a number in which a word may announce it."""


class Group(NamedTuple):
    """Digits that stand together, and what stands between them and the group before; `mark` is that without
    blanks around it."""

    digits: str
    start: int
    end: int
    gap: str
    mark: str


class Near:
    """Whether an announcement stands shortly before a place; each expression reads the text once."""

    __slots__ = ("_data", "_ends")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._ends: dict[int, list[int]] = {}

    def __call__(self, words: Any, place: int) -> bool:
        ends = self._ends.get(id(words))
        if ends is None:
            ends = self._ends[id(words)] = [match.end() for match in words.finditer(self._data)]
        at = bisect_right(ends, place)
        return at > 0 and ends[at - 1] >= place - REACH


def numbers(text: str, begin: int = 0) -> Iterator[Hit]:
    """Every number of a known kind in an ASCII text that begins at or after `begin`."""
    data = text.encode("ascii")
    near = Near(data)
    for run in _RUN.finditer(data, begin):
        yield from _read(text, near, *run.span())


def _read(text: str, near: Near, start: int, end: int) -> Iterator[Hit]:
    groups = list(_groups(text, start, end))
    place = 0
    while place < len(groups):
        hit = _at(text, near, groups, place)
        if hit is None:
            place += 1
            continue
        count, kind, score, first, last = hit
        yield first, last, kind, score
        place += count


def _groups(text: str, start: int, end: int) -> Iterator[Group]:
    """The groups of a run; `str.isdigit` is enough, the text is ASCII."""
    before = place = start
    while place < end:
        if not text[place].isdigit():
            place += 1
            continue
        first = place
        while place < end and text[place].isdigit():
            place += 1
        gap = text[before:first]
        yield Group(text[first:place], first, place, gap, gap.strip() or gap[:1])
        before = place


_Found = tuple[int, str, float, int, int]
"""groups used, kind, score, start, end"""


def _at(text: str, near: Near, groups: list[Group], place: int) -> _Found | None:
    here = groups[place]
    before = text[max(0, here.start - 2) : here.start]
    last = before[-1:]
    if last.isalpha() or (last in ("\\", "#", "$") and len(here.digits) < 12) or _fraction(groups, place):
        return None
    joined = place > 0 and here.gap in _JOINS
    if last != "+" and before != "+(":
        found = None if joined else _card(text, groups, place)
        found = found or _identity(text, near, groups, place)
        if found is not None:
            return found
        if joined:
            return None
    called = phone(text, groups[place : place + 8], near, inside=place > 0 and here.gap == " ")
    if called is not None:
        count, score, first, end = called
        return count, "PHONE_NUMBER", score, first, end
    return None


def _fraction(groups: list[Group], place: int) -> bool:
    """The part behind a decimal point: `0.4111111111111111`."""
    here = groups[place]
    return place > 0 and here.gap == "." and len(groups[place - 1].digits) <= 2 and len(here.digits) > 5


def _tail_is_free(text: str, end: int) -> bool:
    """Nothing grows out of the last group: no letter, no fraction."""
    after = text[end : end + 2]
    return not (after[:1].isalpha() or after[:1] == "_")


def _card(text: str, groups: list[Group], place: int) -> _Found | None:
    begin = groups[place].digits
    if len(begin) < 4:
        begin = "".join([g.digits for g in groups[place : place + 4]])
    if begin[:4] not in checksums.CARD_PREFIXES:
        return None
    size = count = 0
    for group in groups[place : place + MAX_GROUPS]:
        if count > 1 and group.mark != groups[place + 1].mark:
            return None
        count += 1
        size += len(group.digits)
        if size > 19:
            return None
        if size < 12:
            continue
        taken = groups[place : place + count]
        if (
            checksums.card("".join([g.digits for g in taken]))
            and _card_groups([len(g.digits) for g in taken])
            and _tail_is_free(text, group.end)
            and not _continues(groups, place, count)
        ):
            return count, "CREDIT_CARD", 1.0, groups[place].start, group.end
    return None


def _card_groups(sizes: list[int]) -> bool:
    """Groups as cards are written: one, fours (the last may differ), single digits, 4-6-5, 4-6-4, 6-13; not pairs."""
    if len(sizes) == 1 or sizes in ([4, 6, 5], [4, 6, 4], [6, 13], [6, 10], [8, 8], [4, 5, 6]):
        return True
    return set(sizes[:-1]) == {4} or set(sizes) == {1}


def _continues(groups: list[Group], place: int, count: int) -> bool:
    """The same separator goes on with the same rhythm: a longer number, not a card and something else."""
    if count < 2 or place + count >= len(groups):
        return False
    after = groups[place + count]
    return after.gap in ("-", ".") and after.gap == groups[place + 1].gap and len(after.digits) <= 4


class Identity(NamedTuple):
    """A national number: group sizes as written, the check, and the words that must announce bare digits."""

    kind: str
    digits: int
    shapes: tuple[tuple[int, ...], ...]
    check: Callable[[str], bool]
    words: str
    shaped: float | None
    """Score when written in groups without an announcement; None: the announcement is needed anyway."""


_NINE = ((3, 2, 4),)
_IDENTITIES = (
    Identity("US_SSN", 9, _NINE, checksums.ssn, r"\bssn|social.?sec|\bss ?(?:#|no|num)", 0.85),
    Identity("US_ITIN", 9, _NINE, checksums.itin, r"\bitin|tax ?id|taxpayer|\btin\b", 0.85),
    Identity("BR_CPF", 11, ((3, 3, 3, 2),), checksums.cpf, r"\bcpf\b", 0.9),
    Identity("IN_AADHAAR", 12, ((4, 4, 4),), lambda d: d[0] > "1" and checksums.verhoeff(d), r"aa?dha?ar|uidai", 0.8),
    Identity("UK_NHS", 10, ((3, 3, 4),), checksums.nhs, r"\bnhs\b|national health", None),
    Identity("NL_BSN", 9, ((4, 2, 3), (3, 3, 3)), checksums.bsn, r"\bbsn\b|burgerservice|sofi", None),
    Identity("PL_PESEL", 11, (), checksums.pesel, r"pesel", None),
    Identity("DE_TAX_ID", 11, ((2, 3, 3, 3),), checksums.german_tax_id, r"steuer|tax.?id|\bidnr|\btin\b", None),
    Identity("ABA_ROUTING_NUMBER", 9, ((4, 4, 1),), lambda d: checksums.weighted(d, (3, 7, 1) * 3) % 10 == 0 and d[:2] < "33",
             r"routing|\baba\b|\brtn\b|transit", None),
    Identity("US_BANK_NUMBER", 0, (), lambda d: 6 <= len(d) <= 17, r"(?:bank|checking|savings?|deposit)\W{1,3}(?:acc(?:oun)?t|a/c)|acc(?:oun)?t ?(?:#|no\b|num|:)|\biban\b", None),
)  # fmt: skip


class _Way(NamedTuple):
    """One way to write one identity: groups used, score without and with an announcement."""

    identity: Identity
    words: Any
    size: int
    plain: float
    announced: float


def _ways() -> tuple[dict[tuple[int, ...], tuple[_Way, ...]], dict[int, tuple[_Way, ...]]]:
    """Ways by the sizes of the groups, and by the number of digits in one group."""
    shaped: dict[tuple[int, ...], list[_Way]] = {}
    bare: dict[int, list[_Way]] = {}
    for identity in _IDENTITIES:
        words = compiled(f"(?i)(?:{identity.words})")
        for sizes in identity.shapes:
            shaped.setdefault(sizes, []).append(
                _Way(identity, words, len(sizes), identity.shaped or 0.0, 0.95)
            )
        for size in [identity.digits] if identity.digits else range(6, 18):
            bare.setdefault(size, []).append(_Way(identity, words, 1, 0.0, 0.8))
    return {k: tuple(v) for k, v in shaped.items()}, {k: tuple(v) for k, v in bare.items()}


_SHAPED, _BARE = _ways()
_LONGEST = max(len(sizes) for sizes in _SHAPED)


def _identity(text: str, near: Near, groups: list[Group], place: int) -> _Found | None:
    sizes = tuple([len(g.digits) for g in groups[place : place + _LONGEST]])
    ways = _BARE.get(sizes[0], ())
    for count in range(2, len(sizes) + 1):
        ways = (*_SHAPED.get(sizes[:count], ()), *ways)
    for way in ways:
        taken = groups[place : place + way.size]
        score = way.announced if near(way.words, groups[place].start) else way.plain
        if not score or not _one_gap(taken) or not _alone(groups, place, way.size):
            continue
        if _tail_is_free(text, taken[-1].end) and way.identity.check("".join([g.digits for g in taken])):
            return way.size, way.identity.kind, score, taken[0].start, taken[-1].end
    return None


def _one_gap(taken: list[Group]) -> bool:
    """One and the same separator throughout: `693-09.4444` is no social security number, but `529.982.247-25` a CPF."""
    gaps = [g.mark for g in taken[1:]]
    return gaps == [".", ".", "-"] or (len(set(gaps)) <= 1 and not set(gaps) & {",", ";", ":"})


def _alone(groups: list[Group], place: int, count: int) -> bool:
    """No further group hangs on with a dash, dot or slash: `123-45-6789-01` is something else. Three groups of
    four may have no neighbour at all, or the middle of an account number would do."""
    before = groups[place].gap if place else ""
    after = groups[place + count].gap if place + count < len(groups) else ""
    if count == 3 and all(len(g.digits) == 4 for g in groups[place : place + 3]):
        return groups[place + 1].gap not in (before, after)
    return before not in _JOINS and after not in _JOINS


_JOINS = ("-", ".", "/", "_")
