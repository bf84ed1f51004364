"""Surrogates: a value of the same kind and form that belongs to nobody, the same one for the same value and key.

Where somebody has set names aside for fiction and documentation, they are used: example.com (RFC 2606), the networks of
RFC 5737 and RFC 3849, 555-01xx (NANPA), social security numbers from 900 on (never given out). Cards and IBANs pass
their checksums; everything else keeps its form, letter for letter and digit for digit.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable, Iterator

from llmshield_plugins.pii.checksums import iban, luhn

_LOWER, _UPPER, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
_FIRST = ["Alma", "Arlo", "Bela", "Bruno", "Cora", "Dario", "Edda", "Elio", "Fenna", "Gero", "Hanne", "Ilse", "Ivo", "Jarne", "Kaia", "Leif", "Mara", "Nilo", "Odile", "Pelle", "Runa", "Selma", "Tibor", "Ulla", "Vigo", "Wanda", "Ylva", "Zeno"]  # fmt: skip
_LAST = ["Abelmann", "Birkdal", "Corvin", "Dornfeld", "Elsner", "Falkrow", "Grauert", "Halvik", "Imhoff", "Jorvik", "Kestrel", "Lindqvist", "Marbeck", "Norwood", "Osterby", "Perrault", "Quist", "Rowan", "Sandvik", "Thornby", "Ulmer", "Vexley", "Westrup", "Yarrow", "Zellweg"]  # fmt: skip
_PLACES = [
    "Birkfeld",
    "Dornby",
    "Eastmere",
    "Falkenau",
    "Grauwick",
    "Halvern",
    "Linden",
    "Marrow",
    "Norby",
    "Osterau",
    "Rowanton",
    "Westmere",
]
_STREETS = [
    "Alder",
    "Birch",
    "Cedar",
    "Elm",
    "Hazel",
    "Juniper",
    "Larch",
    "Linden",
    "Maple",
    "Rowan",
    "Spruce",
    "Willow",
]
_AMERICAN = re.compile("1?[2-9][0-9]{9}")
_ABROAD = re.compile(r"\s*(?:\+[02-9]|0)")
_LEAD = re.compile(r"\s*(?:(?:\+|00)[0-9]{2}|0)?")
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")


class Draw:
    """Numbers that look like chance and follow from the key, the kind, the value and the attempt."""

    __slots__ = ("_bytes",)

    def __init__(self, key: bytes, kind: str, value: str, attempt: int) -> None:
        seed = f"fake\0{kind}\0{value}\0{attempt}".encode("utf-8", "surrogatepass")
        self._bytes = self._stream(key, seed)

    @staticmethod
    def _stream(key: bytes, seed: bytes) -> Iterator[int]:
        block = 0
        while True:
            yield from hmac.new(key, seed + block.to_bytes(4, "big"), hashlib.sha256).digest()
            block += 1

    def below(self, size: int) -> int:
        """0 .. size-1; the bias is below 1 in 65,536 / size."""
        return ((next(self._bytes) << 16) + (next(self._bytes) << 8) + next(self._bytes)) % size

    def of(self, choices: list[str] | tuple[str, ...] | str) -> str:
        return choices[self.below(len(choices))]


def fake(kind: str, value: str, key: bytes, attempt: int = 0) -> str:
    """A surrogate for `value`; `attempt` makes another one, for where the first is taken."""
    return _MAKERS.get(kind, _alike)(value, Draw(key, kind, value, attempt))


def _alike(value: str, draw: Draw, keep: int = 0) -> str:
    """Each letter and digit another one of its class; the first `keep` characters and all signs stay."""
    out = [value[:keep]]
    for char in value[keep:]:
        if "a" <= char <= "z":
            out.append(draw.of(_LOWER))
        elif "A" <= char <= "Z":
            out.append(draw.of(_UPPER))
        elif char.isdecimal():
            out.append(draw.of(_DIGITS[1:] if char != "0" else _DIGITS))
        elif char.isalpha():
            out.append(draw.of(_UPPER if char.isupper() else _LOWER))
        else:
            out.append(char)
    return "".join(out)


def _filled(form: str, chars: str) -> str:
    """`form` with its letters and digits replaced by `chars`, in order; of a value in disguise, `chars` alone."""
    if sum(map(str.isalnum, form)) != len(chars):
        return chars
    rest = iter(chars)
    return "".join(next(rest) if char.isalnum() else char for char in form)


def _plain(value: str) -> str:
    """Its ASCII letters and digits, large."""
    folded = unicodedata.normalize("NFKC", value).upper()
    return "".join(char for char in folded if char.isascii() and char.isalnum())


def _email(value: str, draw: Draw) -> str:
    name = f"{draw.of(_FIRST)}.{draw.of(_LAST)}{draw.below(90) + 10}".lower()
    return f"{name}@example.{draw.of(('com', 'net', 'org'))}"


def _card(value: str, draw: Draw) -> str:
    digits = _plain(value)
    first, size = (digits[0], len(digits)) if digits.isdigit() and 12 <= len(digits) <= 19 else ("4", 16)
    body = first + "".join(draw.of(_DIGITS) for _ in range(size - 2))
    return _filled(value, body + next(digit for digit in _DIGITS if luhn(body + digit)))


def _iban(value: str, draw: Draw) -> str:
    plain = _plain(value)
    if not iban(plain):
        plain = "DE00" + "1" * 18  # in a disguise that we do not undo here
    country, account = plain[:2], _alike(plain[4:], draw)
    number = "".join(str(int(char, 36)) for char in f"{account}{country}00")
    return _filled(value, f"{country}{98 - int(number) % 97:02d}{account}")


def _phone(value: str, draw: Draw) -> str:
    digits = _plain(value)
    if _AMERICAN.fullmatch(digits) and not _ABROAD.match(value):
        area = f"{draw.below(8) + 2}{draw.below(9)}{draw.below(8) + 2}"
        return _filled(value, f"{digits[:-10]}{area}55501{draw.below(100):02d}")
    lead = _LEAD.match(value)
    return _alike(value, draw, lead.end() if lead else 0)


def _ssn(value: str, draw: Draw) -> str:
    return _filled(value, f"9{draw.below(100):02d}{draw.below(99) + 1:02d}{draw.below(9999) + 1:04d}")


def _ip(value: str, draw: Draw) -> str:
    if ":" in value:
        return "2001:db8:" + ":".join(f"{draw.below(65535) + 1:x}" for _ in range(6))
    return f"{draw.of(_NETWORKS)}.{draw.below(254) + 1}"


def _mac(value: str, draw: Draw) -> str:
    digits = "02" + "".join(draw.of("0123456789abcdef") for _ in range(10))  # locally administered (IEEE 802)
    return _filled(value, digits.upper() if value.upper() == value else digits)


def _date(value: str, draw: Draw) -> str:
    """A year of the last century; every shorter number 1 to 12, which is a day and a month in any order."""

    def other(match: re.Match[str]) -> str:
        digits = match.group()
        if len(digits) == 4:
            return str(1950 + draw.below(50))
        return f"{draw.below(12) + 1:0{len(digits)}d}" if len(digits) <= 2 else _alike(digits, draw)

    return re.sub(r"\d+", other, value)


def _person(value: str, draw: Draw) -> str:
    words = len(value.split())
    if words == 1:
        return draw.of(_FIRST)
    return " ".join([*(draw.of(_FIRST) for _ in range(min(words, 3) - 1)), draw.of(_LAST)])


def _street(value: str, draw: Draw) -> str:
    return f"{draw.below(198) + 1} {draw.of(_STREETS)} Street"


def _organisation(value: str, draw: Draw) -> str:
    return f"{draw.of(_LAST)} {draw.of(('Group', 'Holding', 'Partners', 'Works'))}"


def _url(value: str, draw: Draw) -> str:
    scheme = value.partition("://")[0] or "https"
    return (
        f"{scheme}://user{draw.below(9000) + 1000}:{''.join(draw.of(_LOWER) for _ in range(12))}@example.com/"
    )


def _key(value: str, draw: Draw) -> str:
    """A credential: what names its issuer stays (`sk-`, `AKIA`), and so do the lines around a PEM block."""
    if "-----" in value:
        return "\n".join(line if "-----" in line else _alike(line, draw) for line in value.split("\n"))
    return _alike(value, draw, min(4, len(value) // 4))


_MAKERS: dict[str, Callable[[str, Draw], str]] = {
    "API_KEY": _key,
    "CREDIT_CARD": _card,
    "CRYPTO": _key,
    "DATE_OF_BIRTH": _date,
    "DATE_TIME": _date,
    "EMAIL_ADDRESS": _email,
    "IBAN_CODE": _iban,
    "IP_ADDRESS": _ip,
    "JWT": _key,
    "LOCATION": lambda value, draw: draw.of(_PLACES),
    "MAC_ADDRESS": _mac,
    "ORGANIZATION": _organisation,
    "PERSON": _person,
    "PHONE_NUMBER": _phone,
    "PRIVATE_KEY": _key,
    "STREET_ADDRESS": _street,
    "URL_WITH_CREDENTIALS": _url,
    "US_ITIN": _ssn,
    "US_SSN": _ssn,
}
