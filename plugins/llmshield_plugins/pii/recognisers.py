"""What each kind looks like, as expressions over plain ASCII views, and what must hold besides.

A rule's expression proposes, its `check` decides: it sees the value and its surroundings and returns a score (0 to
1) or None. Kinds that are runs of digits live in `numbers.py`, credentials in `llmshield.secrets_patterns`,
streets in `addresses.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from llmshield_plugins.pii import checksums
from llmshield_plugins.pii.expressions import compiled

Check = Callable[[str, str, str], "float | None"]
"""value, the text before it, the text after it -> score, or None: not this kind"""


class Rule(NamedTuple):
    """One expression of a kind, over one segment.

    `trigger`: a cheap expression that matches wherever `regex` finds a value (see `expressions.gate`). `needs`: the
    words that must stand in the segment or its context; then they are the trigger. `retry`: a proposal that was
    refused is looked at again from its second character on.
    """

    kind: str
    regex: str
    check: Check
    trigger: str
    retry: bool = False
    needs: Any = None


def _edges(before: str, after: str) -> bool:
    """Not the middle of a longer word or number."""
    return not (before[-1:].isalnum() or before[-1:] == "_" or after[:1].isalnum() or after[:1] == "_")


# Names of picture and code files (`icon@2x.png`), which no mail host has as its last label.
_NO_HOST = frozenset(
    {
        "png",
        "jpg",
        "jpeg",
        "gif",
        "svg",
        "webp",
        "ico",
        "css",
        "js",
        "json",
        "html",
        "yml",
        "yaml",
        "exe",
        "dll",
    }
)


def _email(value: str, before: str, after: str) -> float | None:
    local, _, domain = value.rpartition("@")
    labels = domain.lower().split(".")
    if labels[-1] in _NO_HOST or (local.lower() == "git" and after[:1] == ":") or ".." in local:
        return None
    return 1.0


def _iban(value: str, before: str, after: str) -> float | None:
    if before[-1:].isalnum():
        return None
    compact = "".join(c for c in value if c.isalnum()).upper()
    return 1.0 if checksums.iban(compact) else None


def iban_end(value: str) -> int | None:
    """Characters of `value` that are an IBAN of the country it names; what follows is another word."""
    want = checksums.IBAN_LENGTH.get(value[:2].upper())
    if want is None:
        return None
    seen = 0
    for place, char in enumerate(value):
        seen += char.isalnum()
        if seen == want:
            return None if value[place + 1 : place + 2].isalnum() else place + 1
    return None


_VERSION = compiled(
    r"(?i)(?:\bv|\bver\.?|version|release|build|firmware|revision|upgrade(?:d)? to|[a-z]{3,}/)[\"']?\s*[:=]?\s*[\"']?$"
)


def _ipv4(value: str, before: str, after: str) -> float | None:
    if not _edges(before, after) or before[-1:] == "-":
        return None
    if (after[:1] == "." and after[1:2].isdigit()) or (before[-1:] == "." and before[-2:-1].isdigit()):
        return None
    try:
        IPv4Address(value)
    except ValueError:
        return None
    if value.startswith(("127.0.", "0.")) or value == "255.255.255.255":
        return None  # nobody's address
    return None if _VERSION.search(before[-24:]) else 0.9


def _ipv6(value: str, before: str, after: str) -> float | None:
    address, _, _ = value.partition("%")
    if (
        before[-1:].isalnum()
        or after[:1].isalnum()
        or (after[:1] == "." and after[1:2].isdigit())
        or address.count(":") < 2
    ):
        return None
    if not any(c.isdigit() for c in address) or (len(address) < 6 and address != "::1"):
        return None
    if all(len(part) == 2 for part in address.split(":")):  # a fingerprint or a world wide name
        return None
    try:
        IPv6Address(address)
    except ValueError:
        return None
    return 0.9


def _mac(value: str, before: str, after: str) -> float | None:
    if (
        not _edges(before, after)
        or before[-1:] in (":", "-", ".")
        or (after[:1] in (":", "-", ".") and after[1:2].isalnum())
    ):
        return None
    compact = value.replace(":", "").replace("-", "").replace(".", "").upper()
    separators = {c for c in value if c in ":-."}
    return None if len(separators) != 1 or compact in ("F" * 12, "0" * 12) else 0.9


def _crypto(value: str, before: str, after: str) -> float | None:
    if not _edges(before, after):
        return None
    if value.startswith(("0x", "0X")):
        return 0.9 if len(set(value[2:].lower())) > 3 else None
    return 1.0 if checksums.bitcoin(value) else None


def _checked(check: Callable[[str], bool], score: float = 1.0) -> Check:
    """A rule that is a checksum over letters and digits."""

    def run(value: str, before: str, after: str) -> float | None:
        compact = "".join(c for c in value if c.isalnum())
        return score if _edges(before, after) and check(compact) else None

    return run


@cache
def _context(words: str) -> Any:
    return compiled(rf"(?i)(?:{words})")


def _announced(words: str, score: float, reach: int = 48) -> Check:
    """A rule without a checksum: counts only behind one of these words (an re2 expression)."""
    context = _context(words)

    def run(value: str, before: str, after: str) -> float | None:
        if not _edges(before, after) or not any(c.isdigit() for c in value):
            return None
        return score if context.search(before[-reach:]) else None

    return run


def _nino(value: str) -> bool:
    return value[:2].upper() not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_WORD = r"[A-Za-z]{3,10}\.?"
_DATE = (
    r"(?:[0-9]{1,4}[ ]?[./-][ ]?[0-9]{1,2}[ ]?[./-][ ]?[0-9]{1,4}|"
    rf"[0-9]{{1,2}}(?:st|nd|rd|th|\.)?(?:\s(?:of|de|di))?[\s-]{_MONTH_WORD},?[\s-](?:del?\s)?[0-9]{{2,4}}|"
    rf"{_MONTH_WORD}\s[0-9]{{1,2}}(?:st|nd|rd|th)?,?\s[0-9]{{4}}|[0-9]{{8}})"
)
_BIRTH_WORDS = (
    r"(?i)(?:\bdob\b|d\.o\.b|birth|\bborn\b|b\.?day\b|gebor|geburt|\bgeb\.|naissance|\bnee? le|nacimiento|\bnacid[oa]|"
    r"nascita|\bnat[oa] il|nascimento|geboorte|fodelse|urodz|syntym|dogum)"
)
_BIRTH = compiled(_BIRTH_WORDS)


def _birth_date(value: str, before: str, after: str) -> float | None:
    if before[-1:].isalnum() or after[:1].isalnum():
        return None
    said = [match.end() for match in _BIRTH.finditer(before)]
    if not said or len(before) - said[-1] > 40 or any(c.isdigit() for c in before[said[-1] :]):
        return None
    numbers = [int(n) for n in _NUMBER.findall(value)]
    if len(numbers) == 1:  # 19800312
        n = numbers[0]
        return (
            0.8 if len(value) == 8 and checksums.calendar_date(n // 10_000, n // 100 % 100, n % 100) else None
        )
    if len(numbers) == 2:
        return 0.9 if any(word in value.lower() for word in _MONTHS) or numbers[-1] > 1900 else None
    first, second, third = numbers
    if first > 31:
        first, third = third, first
    year = third + (1900 if third < 100 else 0)
    fits = checksums.calendar_date(year, second, first) or checksums.calendar_date(year, first, second)
    return 0.9 if fits else None


_NUMBER = compiled(r"[0-9]+")

_PASSPORT = r"passport|travel document"
_LICENCE = (
    r"driv(?:er|ing)'?s?[ -]licen[cs]e|\bdl ?(?:no|num|#|:)|licen[cs]e (?:no|num|#|id)|permit (?:no|num)"
)


def _words(expression: str) -> str:
    """Announcing words as a trigger: in any case, wherever the context was cut."""
    return f"(?i)(?:{expression})".replace(r"\b", "")


RULES: tuple[Rule, ...] = (
    Rule(
        "EMAIL_ADDRESS",
        r"[A-Za-z0-9_+%!'.\x{2d}]{1,64}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}(?:xn--[A-Za-z0-9-]{2,40}|[A-Za-z]{2,24})",
        _email,
        r"[A-Za-z0-9_+%!'.-]@[A-Za-z0-9]",
    ),
    Rule(
        "IBAN_CODE",
        r"[A-Za-z]{2}[0-9]{2}(?:[ .\-_/:|*\x03]{0,3}[A-Za-z0-9]){11,32}",
        _iban,
        r"(?:\b|_)[A-Za-z]{2}[0-9]{2}[ .\-_/:|*\x03]{0,3}[A-Za-z0-9]",
        retry=True,
    ),
    Rule("IP_ADDRESS", r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", _ipv4, r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]"),
    Rule(
        "IP_ADDRESS",
        r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4})(?:%[0-9A-Za-z]{1,12})?",
        _ipv6,
        r":[0-9A-Fa-f]{0,4}:",
    ),
    Rule(
        "MAC_ADDRESS",
        r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}",
        _mac,
        r"[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}|\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}",
    ),
    Rule(
        "CRYPTO",
        r"(?:bc1|BC1)[0-9A-Za-z]{20,87}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0[xX][0-9a-fA-F]{40}",
        _crypto,
        r"\b(?:(?i:bc1)[0-9A-Za-z]{8}|[13][1-9A-HJ-NP-Za-km-z]{12}|0[xX][0-9a-fA-F]{12})",
    ),
    Rule("DATE_OF_BIRTH", _DATE, _birth_date, _words(_BIRTH_WORDS), needs=_BIRTH),
    Rule(
        "US_PASSPORT",
        r"[A-Za-z]?[0-9]{8}|[0-9]{9}",
        _announced(_PASSPORT, 0.7),
        _words(_PASSPORT),
        needs=_context(_PASSPORT),
    ),
    Rule(
        "US_DRIVER_LICENSE",
        r"[A-Za-z]{0,3}[0-9][A-Za-z0-9]{1,6}(?:-?[A-Za-z0-9]{2,6}){1,3}",
        _announced(_LICENCE, 0.7),
        _words(_LICENCE),
        needs=_context(_LICENCE),
    ),
    Rule(
        "UK_NINO",
        r"(?i)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ -]?(?:[0-9]{2}[ -]?){3}[A-D]",
        _checked(_nino, 0.8),
        r"\b[A-Za-z]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}",
    ),
    Rule("ES_NIF", r"[0-9]{8}[ -]?[A-Za-z]", _checked(checksums.spanish_id, 0.9), r"\b[0-9]{8}[ -]?[A-Za-z]"),
    Rule(
        "ES_NIE",
        r"[XYZxyz][ -]?[0-9]{7}[ -]?[A-Za-z]",
        _checked(checksums.spanish_id, 0.9),
        r"\b[XYZxyz][ -]?[0-9]{7}",
    ),
    Rule(
        "IT_FISCAL_CODE",
        r"(?i)[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
        _checked(checksums.codice_fiscale),
        r"(?i)\b[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
    ),
    Rule(
        "IN_PAN",
        r"[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]",
        _checked(lambda value: True, 0.6),
        r"\b[A-Z]{5}[0-9]{4}",
    ),
    Rule(
        "FR_NIR",
        r"[12][ .]?[0-9]{2}[ .]?[0-9]{2}[ .]?[0-9][0-9AB][ .]?[0-9]{3}[ .]?[0-9]{3}[ .]?[0-9]{2}",
        _checked(checksums.french_nir, 0.9),
        r"\b[12][ .]?[0-9]{2}[ .]?[0-9]{2}[ .]?[0-9][0-9AB][ .]?[0-9]{3}",
    ),
    Rule("CN_RESIDENT_ID", r"[1-9][0-9]{16}[0-9Xx]", _checked(checksums.chinese_id), r"\b[1-9][0-9]{16}"),
)
