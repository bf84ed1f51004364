"""Advice when to try again, read and written."""

from __future__ import annotations

import pytest

from llmshield import clock
from llmshield.dialects._retry import retry_after, retry_headers


class Still:
    def now(self) -> float:
        return 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError


@pytest.fixture(autouse=True)
def _still():
    before = clock.install(Still())
    yield
    clock.install(before)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:07 GMT"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:07"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2015 09:28:07 +0200"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2015 06:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "3"}, 3.0),
        ({"retry-after": "Wed, 21 Oct 99999 07:28:07 GMT"}, None),
        ({"retry-after": "inf"}, 60.0),
        ({"retry-after": "-inf"}, 0.0),
        ({"retry-after": "9" * 5000}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "1e9"}, 60.0),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "NaN"}, None),
        ({"retry-after": "garbage"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "1_0"}, None),
        ({"retry-after-ms": "-1", "retry-after": "3"}, 0.0),
        ({"retry-after-ms": "1e12", "retry-after": "3"}, 60.0),
        ({"retry-after-ms": "nan", "retry-after": "3"}, 3.0),
    ],
)
def test_advice_is_bounded_or_nothing(headers, seconds):
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("seconds", "headers"),
    [
        (None, {}),
        (float("nan"), {}),
        (0.0, {"retry-after": "1", "retry-after-ms": "1"}),
        (1.2, {"retry-after": "2", "retry-after-ms": "1200"}),
        (-4.0, {"retry-after": "1", "retry-after-ms": "1"}),
        (1e9, {"retry-after": "60", "retry-after-ms": "60000"}),
    ],
)
def test_our_own_advice_is_within_a_minute(seconds, headers):
    assert retry_headers(seconds) == headers
