"""Error objects of the three families."""

import pytest

from llmshield.simulator.errors import STATUSES, error


@pytest.mark.parametrize(
    ("family", "status", "expected"),
    [
        ("openai", 401, {"type": "invalid_request_error", "code": "invalid_api_key"}),
        ("openai", 429, {"type": "rate_limit_error", "code": "rate_limit_exceeded"}),
        ("openai", 500, {"type": "server_error", "code": None}),
        ("anthropic", 400, {"type": "invalid_request_error"}),
        ("anthropic", 402, {"type": "billing_error"}),
        ("anthropic", 413, {"type": "request_too_large"}),
        ("anthropic", 500, {"type": "api_error"}),
        ("anthropic", 529, {"type": "overloaded_error"}),
        ("gemini", 400, {"status": "INVALID_ARGUMENT", "code": 400}),
        ("gemini", 429, {"status": "RESOURCE_EXHAUSTED", "code": 429}),
        ("gemini", 502, {"status": "INTERNAL", "code": 502}),
        ("gemini", 503, {"status": "UNAVAILABLE", "code": 503}),
    ],
)
def test_shapes(family, status, expected):
    found = error(family, status)["error"]

    assert expected == {key: found[key] for key in expected}
    assert found["message"]


@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("status", STATUSES)
def test_everything_can_be_replaced(family, status):
    tree = error(family, status, "m", code="c", kind="k")

    assert tree["error"]["message"] == "m"
    assert '"c"' in str(tree).replace("'", '"')
    assert "k" in tree["error"].values()
