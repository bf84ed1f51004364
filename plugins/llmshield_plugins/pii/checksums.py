"""Whether digits can be what they look like: check digits, ranges, calendars. Pure functions over ASCII text."""

from __future__ import annotations

import hashlib
from datetime import date
from functools import lru_cache

# Characters of an IBAN by country (SWIFT IBAN Registry).
IBAN_LENGTH = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip


# The account number's alphabet by country, where it is digits only (same registry): `AL47 212A ...` is none.
_IBAN_DIGITS_ONLY = frozenset(
    ("AE", "BA", "BE", "CR", "DE", "DK", "EE", "ES", "FI", "FO", "GL", "GR", "HR", "HU", "IL", "IS", "LT", "ME", "MN",
     "MR", "NO", "PL", "PT", "RS", "SE", "SI", "SK", "SO", "ST", "TL", "TN", "VA", "XK")
)  # fmt: skip
_IBAN_BANK_LETTERS = {"GB": 4, "NL": 4, "IE": 4, "BG": 4, "BH": 4, "GE": 2, "RO": 4, "LV": 4, "GI": 4, "VG": 4, "PK": 4, "AZ": 4, "QA": 4, "JO": 4, "KW": 4, "MU": 4, "PS": 4, "IQ": 4, "BY": 0, "UA": 0}  # fmt: skip


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = ord(char) - 48
        if place & 1:
            value += value - 9 if value > 4 else value
        total += value
    return total % 10 == 0


def card(digits: str) -> bool:
    """A payment card number: issuer range, length of that issuer, Luhn, and not one digit repeated."""
    return len(set(digits)) > 1 and _issuer(digits) and luhn(digits)


_MAESTRO = (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763, 6390, 6054, 604)


def _issuer(digits: str) -> bool:
    """Ranges of ISO/IEC 7812 issuer numbers in use: Visa, Mastercard, Amex, Diners, JCB, Discover and the rest."""
    size = len(digits)
    two, three, four = int(digits[:2]), int(digits[:3]), int(digits[:4])
    if digits[0] == "4":
        return size in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return size == 16
    if two in (34, 37) or four in (2131, 1800):
        return size == 15
    if 300 <= three <= 305 or two in (36, 38, 39) or four == 3095:
        return size in (14, 16)
    if two == 35:
        return size in (16, 19)
    if four == 6011 or two in (65, 62, 81) or 644 <= three <= 649:
        return size in (16, 19)
    if four in _MAESTRO or two in (56, 57, 58):
        return 12 <= size <= 19
    return (2200 <= four <= 2204 or two in (50, 60, 67)) and size in (16, 18, 19)


_PREFIX_RANGES = (
    (604, 604), (1800, 1800), (2131, 2131), (2200, 2204), (2221, 2720), (3000, 3059), (3095, 3095), (3400, 3999),
    (4000, 4999), (5000, 5899), (6000, 6099), (6200, 6299), (6304, 6304), (6390, 6390), (6440, 6599), (6700, 6799),
    (8100, 8199),
)  # fmt: skip
CARD_PREFIXES = frozenset(f"{n:04d}" for first, last in _PREFIX_RANGES for n in range(first, last + 1))
"""Four digits with which any card number that `_issuer` knows begins, and some more."""


def iban(compact: str) -> bool:
    """ISO 13616: length by country, ISO 7064 mod 97-10."""
    country = compact[:2]
    if len(compact) != IBAN_LENGTH.get(country) or not compact[2:4].isdigit():
        return False
    if country in _IBAN_DIGITS_ONLY and not compact[4:].isdigit():
        return False
    letters = _IBAN_BANK_LETTERS.get(country, 0)
    if letters and not compact[4 : 4 + letters].isalpha():
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def ssn(digits: str) -> bool:
    """A US social security number that could have been issued (SSA: no 000, 666, 9xx; no 00; no 0000)."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return (
        area not in ("000", "666")
        and area[0] != "9"
        and group != "00"
        and serial != "0000"
        and len(set(digits)) > 1
    )


def itin(digits: str) -> bool:
    """A US individual taxpayer number: 9xx, and the group ranges that the IRS assigns."""
    group = int(digits[3:5])
    return digits[0] == "9" and (
        50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99
    )


def calendar_date(year: int, month: int, day: int) -> bool:
    """A day that exists, on which somebody alive may have been born."""
    try:
        return date(1900, 1, 1) <= date(year, month, day) <= date(2100, 1, 1)
    except ValueError:
        return False


_VERHOEFF_D = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_P = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def verhoeff(digits: str) -> bool:
    """Verhoeff's check digit, as Aadhaar numbers use it."""
    check = 0
    for place, char in enumerate(reversed(digits)):
        check = int(_VERHOEFF_D[check][int(_VERHOEFF_P[place % 8][int(char)])])
    return check == 0


def weighted(digits: str, weights: tuple[int, ...]) -> int:
    """The sum of digits times weights."""
    return sum(int(c) * w for c, w in zip(digits, weights, strict=False))


def nhs(digits: str) -> bool:
    """UK NHS number: mod 11."""
    check = 11 - weighted(digits, (10, 9, 8, 7, 6, 5, 4, 3, 2)) % 11
    return check != 10 and check % 11 == int(digits[9]) and len(set(digits)) > 1


def cpf(digits: str) -> bool:
    """Brazil, CPF: two check digits mod 11."""
    if len(set(digits)) == 1:
        return False
    for size in (9, 10):
        if weighted(digits[:size], tuple(range(size + 1, 1, -1))) * 10 % 11 % 10 != int(digits[size]):
            return False
    return True


def bsn(digits: str) -> bool:
    """Netherlands, burgerservicenummer: the eleven test."""
    return weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0 and int(digits) > 9_999_999


def pesel(digits: str) -> bool:
    """Poland, PESEL: weights and a date inside."""
    if weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10:
        return False
    month = int(digits[2:4])
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[month // 20]
    try:
        date(century + int(digits[:2]), month % 20, int(digits[4:6]))
    except ValueError:
        return False
    return True


def chinese_id(value: str) -> bool:
    """China, resident identity number (GB 11643): date and ISO 7064 mod 11-2."""
    if not calendar_date(int(value[6:10]), int(value[10:12]), int(value[12:14])):
        return False
    total = weighted(value, (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2))
    return "10X98765432"[total % 11] == value[17].upper()


def french_nir(value: str) -> bool:
    """France, numéro de sécurité sociale: key = 97 - number mod 97; Corsica's 2A and 2B count as 19 and 18."""
    number = value[:13].upper().replace("2A", "19").replace("2B", "18")
    return number.isdigit() and 97 - int(number) % 97 == int(value[13:15]) and 1 <= int(value[3:5]) <= 99


def spanish_id(value: str) -> bool:
    """Spain, NIF and NIE: the letter is the number mod 23."""
    number = value[:-1].upper().translate(str.maketrans("XYZ", "012"))
    return number.isdigit() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == value[-1].upper()


_CODICE_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip


def codice_fiscale(value: str) -> bool:
    """Italy, codice fiscale: odd and even places, mod 26."""
    value = value.upper()
    total = sum(
        _CODICE_ODD[c] if place % 2 == 0 else int(c, 36) - (10 if c.isalpha() else 0)
        for place, c in enumerate(value[:15])
    )
    return chr(65 + total % 26) == value[15]


def german_tax_id(digits: str) -> bool:
    """Germany, Steuer-ID: ISO 7064 mod 11-10; one digit of the first ten occurs two or three times."""
    repeats = sorted((digits[:10].count(d) for d in set(digits[:10])), reverse=True)
    if digits[0] == "0" or repeats[0] not in (2, 3) or (len(repeats) > 1 and repeats[1] > 1):
        return False
    product = 10
    for char in digits[:10]:
        total = (int(char) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


@lru_cache(maxsize=1024)
def bitcoin(address: str) -> bool:
    """Base58Check (versions 0 and 5) or Bech32/Bech32m (BIP 173, BIP 350)."""
    if address[:3].lower() == "bc1":
        return _bech32(address)
    number = 0
    for char in address:
        place = _BASE58.find(char)
        if place < 0:
            return False
        number = number * 58 + place
    try:
        raw = number.to_bytes(25, "big")
    except OverflowError:
        return False
    return raw[0] in (0, 5) and hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


def _bech32(address: str) -> bool:
    if address.lower() != address and address.upper() != address:
        return False
    address = address.lower()
    data = [_BECH32.find(c) for c in address[3:]]
    if -1 in data or len(data) < 7:
        return False
    check = 1
    for value in [3, 3, 0, 2, 3, *data]:  # the expanded human-readable part "bc"
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                check ^= generator
    return check in (1, 0x2BC830A3)
