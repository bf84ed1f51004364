"""Tokens under one section of a policy; `jwt:CLAIM` (test_jwt) and the admin port (tests/admin) stand on it."""

import pytest

from llmshield.identity._claims import claim


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a", {"b": {"c/d": 1}}),
        ("/a/b/c~1d", 1),
        ("/a/b", {"c/d": 1}),
        ("/a/x/y", None),
        ("/a/b/c~1d/e", None),
        ("x", None),
    ],
)
def test_a_claim_is_named_or_pointed_at(name: str, found: object) -> None:
    assert found == claim({"a": {"b": {"c/d": 1}}}, name)
