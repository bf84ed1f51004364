"""Names that a program may take for another."""

import pytest

from llmshield_plugins.tools.names import deceives, read


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("get_price", "get_price"),
        (" get_price\n", "get_price"),
        ("get\u200b_pri\u0301ce", "get_price"),
        ("ｇet_price", "get_price"),
        ("获取天气", "获取天气"),
        ("", ""),
    ],
)
def test_a_name_in_plain_letters(name: str, plain: str) -> None:
    assert read(name) == plain


@pytest.mark.parametrize(
    ("name", "mixed"),
    [
        ("get_price", False),
        ("gеt_price", True),
        ("gετ_price", True),
        ("получить_цену", False),
        ("weather_天气", False),
        ("prüfe_größe", False),
    ],
)
def test_letters_of_other_scripts(name: str, mixed: bool) -> None:
    assert deceives(name) is mixed
