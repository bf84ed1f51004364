"""LLMSHIELD_ENV: production, and every word that nobody knows."""

import pytest

from llmshield.deployment import is_production


@pytest.mark.parametrize(
    ("value", "expected"),
    [("production", True), (" Production\n", True), ("prod", True), ("prodcution", True), ("live", True), ("", False),
     ("development", False), ("staging", False), ("TEST", False)],
)  # fmt: skip
def test_what_it_means(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSHIELD_ENV", value)
    assert expected is is_production()
    monkeypatch.delenv("LLMSHIELD_ENV")
    assert not is_production()
