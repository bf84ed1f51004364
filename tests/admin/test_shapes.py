"""The small types of the admin API."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from llmshield.admin.shapes import _WHOLE, Length, ModelName, NamePart, TenantPart, Words, moment


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Length, ["30s", "1.5h", "366d"], ["", "0s", "30", 30, "-1s", "367d", "1y", None]),
        (NamePart, ["a", "a.b-c_d", "A" * 64], ["", "-a", "a b", "a/b", "ä", "A" * 65, 5]),
        (TenantPart, ["a", "ann@example.com", "a%20b"], ["", "a b", "a\n", "ä", "a" * 129]),
        (ModelName, ["gpt-4o", "org/model:free"], ["", "a b", "ä", "a\x7f", "a" * 257]),
        (Words, ["", "Grüße, 世界"], ["a\nb", "a\x1b[0m", "a\u2028b", "a" * 501]),
    ],
)
def test_small_types(kind: object, good: list[object], bad: list[object]) -> None:
    adapter: TypeAdapter[object] = TypeAdapter(kind)
    for value in good:
        adapter.validate_python(value)
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@pytest.mark.parametrize(
    ("ms", "shown"),
    [(0, None), (1_790_000_000_000, "2026-09-21T14:13:20Z"), (10**20, None), (float("inf"), None)],
)
def test_moments(ms: float, shown: str | None) -> None:
    assert shown == moment(ms)


@given(st.from_regex(_WHOLE, fullmatch=True))
def test_what_the_description_says_of_a_length_is_read(text: str) -> None:
    assert 0 < TypeAdapter(Length).validate_python(text) <= 366 * 86_400
