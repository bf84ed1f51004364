"""Kinds that are digits in groups: cards, social security numbers, phones, bank and other national numbers.

One expression finds runs of digits with anything that people put between them; this file then reads the groups
from left to right and asks, at each group, which kind the next few groups are. Refused by design: dates, times,
versions, ranges, decimal fractions, order numbers.
"""

from __future__ import annotations

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
_GROUP = compiled(r"[0-9]+")
MAX_GROUPS = 19


class Group(NamedTuple):
    """Digits that stand together, and what stands between them and the group before."""

    digits: str
    start: int
    end: int
    gap: str


def numbers(text: str) -> Iterator[Hit]:
    """Every number of a known kind in an ASCII text."""
    data = text.encode("ascii")
    for run in _RUN.finditer(data):
        yield from _read(text, *run.span())


def _read(text: str, start: int, end: int) -> Iterator[Hit]:
    groups = list(_groups(text, start, end))
    place = 0
    while place < len(groups):
        hit = _at(text, groups, place)
        if hit is None:
            place += 1
            continue
        count, kind, score, first, last = hit
        yield first, last, kind, score
        place += count


def _groups(text: str, start: int, end: int) -> Iterator[Group]:
    before = start
    for match in _GROUP.finditer(text[start:end].encode("ascii")):
        first, last = match.start() + start, match.end() + start
        yield Group(text[first:last], first, last, text[before:first])
        before = last


_Found = tuple[int, str, float, int, int]
"""groups used, kind, score, start, end"""


def _at(text: str, groups: list[Group], place: int) -> _Found | None:
    here = groups[place]
    before = text[max(0, here.start - 64) : here.start]
    if _fraction(groups, place, before):
        return None
    international = before[-1:] == "+" or before[-2:] == "+("
    if not international:
        found = _card(text, groups, place, before) or _identity(text, groups, place, before)
        if found is not None:
            return found
    called = phone(text, [g[:3] for g in groups[place : place + 8]])
    if called is not None:
        count, score, first, last = called
        return count, "PHONE_NUMBER", score, first, last
    return None


def _fraction(groups: list[Group], place: int, before: str) -> bool:
    """The part behind a decimal point (`0.4111111111111111`) or inside a longer word."""
    here = groups[place]
    if before[-1:].isalpha() or (before[-1:] in ("\\", "#", "$") and len(here.digits) < 12):
        return True
    return place > 0 and here.gap == "." and len(groups[place - 1].digits) <= 2 and len(here.digits) > 5


def _tail_is_free(text: str, end: int) -> bool:
    """Nothing grows out of the last group: no letter, no fraction."""
    after = text[end : end + 2]
    return not (after[:1].isalpha() or after[:1] == "_")


def _card(text: str, groups: list[Group], place: int, before: str) -> _Found | None:
    digits = ""
    gap: str | None = None
    for count in range(1, min(MAX_GROUPS, len(groups) - place) + 1):
        group = groups[place + count - 1]
        if count > 1:
            between = group.gap.strip() or group.gap[:1]
            if gap is not None and between != gap:
                return None
            gap = between
        digits += group.digits
        if len(digits) > 19:
            return None
        if len(digits) < 12 or not _tail_is_free(text, group.end):
            continue
        sizes = [len(g.digits) for g in groups[place : place + count]]
        if checksums.card(digits) and _card_groups(sizes) and not _continues(groups, place, count, gap):
            return count, "CREDIT_CARD", 1.0, groups[place].start, group.end
    return None


def _card_groups(sizes: list[int]) -> bool:
    """Groups as cards are written: one, equal ones (the last may be shorter), 4-6-5, 4-6-4, 6-13."""
    if len(sizes) == 1 or sizes in ([4, 6, 5], [4, 6, 4], [6, 13], [6, 10], [8, 8], [4, 5, 6]):
        return True
    return len(set(sizes[:-1])) == 1 and (sizes[-1] <= sizes[0] or sizes[0] == 4)


def _continues(groups: list[Group], place: int, count: int, gap: str | None) -> bool:
    """The same separator goes on with the same rhythm: a longer number, not a card and something else."""
    rest = groups[place + count : place + count + 1]
    return bool(rest) and gap is not None and rest[0].gap == gap and gap in "-." and len(rest[0].digits) <= 4


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


def _ways() -> tuple[dict[tuple[int, ...], list[_Way]], dict[int, list[_Way]]]:
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
    return shaped, bare


_SHAPED, _BARE = _ways()
_LONGEST = max(len(sizes) for sizes in _SHAPED)


def _identity(text: str, groups: list[Group], place: int, before: str) -> _Found | None:
    sizes = tuple([len(g.digits) for g in groups[place : place + _LONGEST]])
    ways = [way for count in range(2, len(sizes) + 1) for way in _SHAPED.get(sizes[:count], ())]
    for way in [*ways, *_BARE.get(sizes[0], ())]:
        taken = groups[place : place + way.size]
        score = way.announced if way.words.search(before[-48:]) is not None else way.plain
        if not score or not _one_gap(taken) or not _alone(groups, place, way.size):
            continue
        if _tail_is_free(text, taken[-1].end) and way.identity.check("".join([g.digits for g in taken])):
            return way.size, way.identity.kind, score, taken[0].start, taken[-1].end
    return None


def _one_gap(taken: list[Group]) -> bool:
    """One and the same separator throughout: `693-09.4444` is no social security number."""
    return len({g.gap.strip() or g.gap[:1] for g in taken[1:]}) <= 1


def _alone(groups: list[Group], place: int, count: int) -> bool:
    """No further group hangs on with a dash, dot or slash: `123-45-6789-01` is something else."""
    joins = "-./_"
    before = groups[place].gap.strip() if place else ""
    after = groups[place + count].gap.strip() if place + count < len(groups) else ""
    return not (before and before in joins) and not (after and after in joins)
