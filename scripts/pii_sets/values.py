"""Values of each kind for the texts of this folder: names from `names.txt`, numbers that pass their checks."""

from __future__ import annotations

import random
import string
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE.parent.parent / "plugins")]

from llmshield_plugins.pii import checksums  # noqa: E402

_ALNUM = string.ascii_letters + string.digits
_TITLES = ("Mr.", "Mrs.", "Ms.", "Dr.", "Mr", "Mrs", "Ms", "Dr", "Prof.", "Sir")
_STATES = ("CA", "NY", "TX", "WA", "FL", "OH", "IL", "MA", "OR", "CO")


@cache
def names(kind: str) -> tuple[str, ...]:
    """The list of this kind in `names.txt`."""
    for line in (HERE / "names.txt").read_text(encoding="utf-8").splitlines():
        head, _, rest = line.partition(": ")
        if head == kind:
            return tuple(rest.split("|"))
    raise KeyError(kind)


def digits(rng: random.Random, count: int) -> str:
    """So many random digits."""
    return "".join(rng.choice(string.digits) for _ in range(count))


def until(make: Callable[[], str], good: Callable[[str], bool]) -> str:
    """The first that is good."""
    while not good(value := make()):
        pass
    return value


def person(rng: random.Random) -> str:
    """A full name as people write it: with an initial, two first names, a double last name, a prefix."""
    first, last = rng.choice(names("first")), rng.choice(names("last"))
    return rng.choice((
        f"{first} {last}", f"{first} {last}", f"{first} {last}", f"{first} {last}",
        f"{first} {rng.choice('ABCDEFGHJKLMNPRSTW')}. {last}", f"{first} {rng.choice(names('first'))} {last}",
        f"{first[0]}. {last}", f"{first} {last}-{rng.choice(names('last')).split()[-1]}",
    ))  # fmt: skip


def card(rng: random.Random) -> str:
    """A card number of 12 to 19 digits, plain or in groups."""
    prefix, size = rng.choice((
        ("4", 16), ("4", 16), ("4", 13), ("4", 19), ("51", 16), ("55", 16), ("2221", 16), ("34", 15), ("37", 15), ("6011", 16),
        ("65", 16), ("36", 14), ("3528", 16), ("5018", 12), ("6304", 12), ("6759", 18), ("62", 19),
    ))  # fmt: skip
    value = until(lambda: prefix + digits(rng, size - len(prefix)), checksums.luhn)
    if rng.random() < 0.4:
        groups = (4, 6, 5) if size == 15 else (4, 6, 4) if size == 14 else (4, 4, 4, 4, 3)
        return rng.choice(" -").join(_cut(value, groups))
    return value


def _cut(value: str, sizes: tuple[int, ...]) -> list[str]:
    out, at = [], 0
    for size in sizes:
        if at < len(value):
            out.append(value[at : at + size])
            at += size
    return out


def iban(rng: random.Random) -> str:
    """An IBAN of ten countries, plain or in groups of four."""
    country, size, letters = rng.choice((
        ("DE", 22, 0), ("FR", 27, 0), ("ES", 24, 0), ("NO", 15, 0), ("PL", 28, 0), ("GB", 22, 4), ("NL", 18, 4), ("CH", 21, 0),
        ("BE", 16, 0), ("AT", 20, 0),
    ))  # fmt: skip
    body = "".join(rng.choice(string.ascii_uppercase) for _ in range(letters)) + digits(
        rng, size - 4 - letters
    )
    check = 98 - int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
    value = f"{country}{check:02d}{body}"
    return " ".join(value[i : i + 4] for i in range(0, size, 4)) if rng.random() < 0.4 else value


def ssn(rng: random.Random) -> str:
    """A US social security number that may have been issued."""
    value = until(lambda: digits(rng, 9), checksums.ssn)
    return f"{value[:3]}-{value[3:5]}-{value[5:]}"


def ip(rng: random.Random) -> str:
    """An address, one in four of IPv6."""
    if rng.random() < 0.25:
        return "2001:db8:" + ":".join(f"{rng.randint(1, 65535):x}" for _ in range(6))
    return ".".join(str(rng.randint(1, 254)) for _ in range(4))


def mac(rng: random.Random) -> str:
    """A hardware address in either case, with colons or hyphens."""
    value = rng.choice(":-").join(f"{rng.randint(0, 255):02x}" for _ in range(6))
    return value.upper() if rng.random() < 0.5 else value


def email(rng: random.Random) -> str:
    """A mail address in ASCII."""
    first = "".join(c for c in rng.choice(names("first")).lower() if c.isascii())
    last = "".join(c for c in rng.choice(names("last")).lower() if c.isascii() and c.isalpha())
    local = rng.choice(
        (f"{first}.{last}", f"{first[0]}{last}", f"{first}_{rng.randint(1, 99)}", f"{last}+shop", first)
    )
    domain = rng.choice(
        (
            "example.com",
            "mail.example.org",
            "web.de",
            "foo-bar.co.uk",
            "posteo.net",
            "uni-example.edu",
            "acme.io",
        )
    )
    return f"{local}@{domain}"


def phone(rng: random.Random) -> str:
    """A number of eight countries as people write it."""
    area, office = (
        f"{rng.randint(2, 9)}{rng.randint(2, 9)}{rng.randint(0, 9)}",
        f"{rng.randint(2, 9)}{rng.randint(2, 9)}{rng.randint(0, 9)}",
    )
    line = digits(rng, 4)
    return rng.choice((
        f"+1 {area} {office} {line}", f"({area}) {office}-{line}", f"{area}-{office}-{line}", f"+1-{area}-{office}-{line}",
        f"{area}.{office}.{line}", f"+44 20 7946 {digits(rng, 4)}", f"+44 7700 900{digits(rng, 3)}", f"+49 171 {digits(rng, 7)}",
        f"+49 30 {digits(rng, 7)}", f"0171 {digits(rng, 7)}", f"+33 6 {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)}",
        f"+34 6{digits(rng, 2)} {digits(rng, 3)} {digits(rng, 3)}", f"+91 98{digits(rng, 3)} {digits(rng, 5)}", f"+46 70 {digits(rng, 3)} {digits(rng, 2)} {digits(rng, 2)}",
        f"+1{area}{office}{line}", f"{area}-{office}-{line} x{digits(rng, 3)}",
    ))  # fmt: skip


def key(rng: random.Random) -> str:
    """A key of an issuer whose form is known."""

    def run(count: int, of: str = _ALNUM) -> str:
        return "".join(rng.choice(of) for _ in range(count))

    return rng.choice((
        f"sk-proj-{run(48)}", f"sk-ant-api03-{run(93)}AA", f"ghp_{run(36)}", f"glpat-{run(20)}", f"xoxb-{digits(rng, 12)}-{digits(rng, 12)}-{run(24)}",
        f"AKIA{run(16, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567')}", f"AIza{run(35)}", f"hf_{run(34, string.ascii_letters)}", f"sk_live_{run(24)}", f"npm_{run(36)}", f"SG.{run(22)}.{run(43)}",
        f"dop_v1_{run(64, '0123456789abcdef')}",
    ))  # fmt: skip


def address(rng: random.Random) -> str:
    """A street address of one of twenty countries; the town and the postcode often belong to it."""

    def of(kind: str) -> str:
        return rng.choice(names(kind))

    number, city = rng.randint(1, 999), of("city")
    kind = rng.choice(
        (
            "Street",
            "St",
            "Avenue",
            "Ave",
            "Road",
            "Rd",
            "Lane",
            "Drive",
            "Boulevard",
            "Court",
            "Way",
            "Place",
            "Terrace",
        )
    )
    us = f"{rng.randint(1, 9999)} {rng.choice(('', '', '', 'N. ', 'South '))}{of('street')} {kind}"
    uk = f"{number} {of('street')} {rng.choice(('Road', 'Close', 'Gardens', 'Crescent', 'Street', 'Lane'))}"
    return rng.choice((
        us, us, f"{us}, {city}", f"{us}, {city}, {rng.choice(_STATES)} {digits(rng, 5)}", f"{us}, Apt {rng.randint(1, 40)}, {city}, {rng.choice(_STATES)}",
        f"{us} Apt. {rng.randint(1, 400)}, {city}, {rng.choice(_STATES)} {digits(rng, 5)}",
        f"{uk}, {city} {rng.choice(('SW1A 2AA', 'LS1 4DY', 'M1 1AE', 'EH3 9QN', 'BS8 1TH'))}", f"Flat {number % 30 + 1}, {uk}, {city}",
        f"{uk}, {city} {rng.choice(('NSW', 'VIC', 'QLD'))} {digits(rng, 4)}",
        f"{of('strasse')}straße {number}", f"{of('strasse')}str. {number % 120 + 1}, {digits(rng, 5)} {city}", f"{of('strasse')}weg {number % 90 + 1}{rng.choice('abc')}, {city}",
        f"{number} rue {of('rue')}, {digits(rng, 5)} {city}", f"{number} avenue {of('rue')}, {city}", f"Calle {of('calle')} {number}, {digits(rng, 5)} {city}",
        f"C/ {of('calle')}, {number}, {city}", f"Via {of('via')} {number}, {digits(rng, 5)} {city}", f"Piazza {of('via')}, {number % 40 + 1}",
        f"{of('straat')} {number}, {rng.randint(1000, 9999)} {rng.choice(('AB', 'GX', 'NL'))} {city}", f"{of('nordic')} {number % 90 + 1}, {digits(rng, 5)} {city}", f"{of('nordic')} {number % 90 + 1}",
        f"Rua {of('rua')}, {number}, {city}", f"Rua {of('rua')} {number}", f"ul. {of('polish')} {number % 90 + 1}/{rng.randint(1, 30)}, {digits(rng, 2)}-{digits(rng, 3)} {city}",
        f"P.O. Box {digits(rng, 4)}, {city}",
    ))  # fmt: skip


MAKERS: dict[str, tuple[str, Callable[[random.Random], str]]] = {
    "person": ("PERSON", person),
    "first": ("PERSON", lambda rng: rng.choice(names("first"))),
    "last": ("PERSON", lambda rng: rng.choice(names("last"))),
    "city": ("LOCATION", lambda rng: rng.choice(names("city"))),
    "country": ("LOCATION", lambda rng: rng.choice(names("country"))),
    "org": ("ORGANIZATION", lambda rng: rng.choice(names("org"))),
    "address": ("STREET_ADDRESS", address), "email": ("EMAIL_ADDRESS", email), "phone": ("PHONE_NUMBER", phone),
    "card": ("CREDIT_CARD", card), "iban": ("IBAN_CODE", iban), "ssn": ("US_SSN", ssn), "ip": ("IP_ADDRESS", ip),
    "mac": ("MAC_ADDRESS", mac), "key": ("API_KEY", key), "title": ("", lambda rng: rng.choice(_TITLES)),
}  # fmt: skip
"""Room in a template -> kind of the value (empty: none), and how one is made."""
