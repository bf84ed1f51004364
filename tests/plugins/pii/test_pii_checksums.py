"""Check digits against published examples, and against the same number with one digit changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmshield_plugins.pii import checksums


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (checksums.card, "4111111111111111"),
        (checksums.card, "5555555555554444"),
        (checksums.card, "378282246310005"),
        (checksums.card, "6011111111111117"),
        (checksums.card, "30569309025904"),
        (checksums.card, "2223003122003222"),
        (checksums.card, "4222222222222"),
        (checksums.iban, "GB82WEST12345698765432"),
        (checksums.iban, "FR1420041010050500013M02606"),
        (checksums.iban, "NO9386011117947"),
        (checksums.verhoeff, "234123412346"),
        (checksums.nhs, "9434765919"),
        (checksums.cpf, "52998224725"),
        (checksums.bsn, "111222333"),
        (checksums.pesel, "44051401359"),
        (checksums.german_tax_id, "86095742719"),
        (checksums.chinese_id, "11010519491231002X"),
        (checksums.french_nir, "255081416802538"),
        (checksums.spanish_id, "12345678Z"),
        (checksums.spanish_id, "X1234567L"),
        (checksums.codice_fiscale, "RSSMRA85T10A562S"),
        (checksums.bitcoin, "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ"),
        (checksums.bitcoin, "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"),
        (checksums.bitcoin, "bc1p5d7rjq7g6rdk2yhzks9smlaqtedr4dekq08ge8ztwac72sfr9rusxg3297"),
    ],
)
def test_check_digits(check: Callable[[str], bool], good: str) -> None:
    place = max(i for i, c in enumerate(good) if c.isdigit())
    wrong = good[:place] + str((int(good[place]) + 1) % 10) + good[place + 1 :]

    assert check(good)
    assert not check(wrong)


@pytest.mark.parametrize(
    ("check", "digits", "expected"),
    [
        (checksums.ssn, "536228726", True),
        (checksums.ssn, "000228726", False),
        (checksums.ssn, "666228726", False),
        (checksums.ssn, "936228726", False),
        (checksums.ssn, "536008726", False),
        (checksums.ssn, "536220000", False),
        (checksums.itin, "911701234", True),
        (checksums.itin, "911891234", False),
        (checksums.card, "1748503543012", False),
        (checksums.card, "0000000000000000", False),
    ],
)
def test_ranges(check: Callable[[str], bool], digits: str, expected: bool) -> None:
    assert expected is check(digits)


def test_every_card_begins_with_a_listed_prefix() -> None:
    for prefix in range(10_000):
        begin = f"{prefix:04d}"
        if begin not in checksums.CARD_PREFIXES:
            for size in range(12, 20):
                assert not checksums._issuer(begin.ljust(size, "0"))
