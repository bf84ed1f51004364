"""A provider's advice when to try again, as headers give it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from llmshield import clock

LONGEST_S = 60.0
"""SDKs ignore advice beyond a minute, and so do we: the next target is the better answer to a longer wait."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, 0..60, or None without (usable) advice; header names are lower-case.

    Order as in the SDKs: `retry-after-ms`, then `retry-after` in seconds (also with a fraction) or as an HTTP
    date (RFC 9110, 10.2.3).
    """
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None:
        seconds = _number(milliseconds)
        if seconds is not None:
            return bounded(seconds / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is not None:
        return bounded(seconds)
    try:
        return bounded(parsedate_to_datetime(value[:64]).timestamp() - clock.now())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def bounded(seconds: float) -> float:
    """The advice cut to 0..60 seconds."""
    return min(max(seconds, 0.0), LONGEST_S)


def retry_headers(seconds: float | None) -> dict[str, str]:
    """`retry-after` in whole seconds (rounded up) and `retry-after-ms` for a client; nothing for None."""
    if seconds is None or math.isnan(seconds):
        return {}
    seconds = bounded(seconds)
    return {
        "retry-after": str(max(math.ceil(seconds), 1)),
        "retry-after-ms": str(max(math.ceil(seconds * 1000), 1)),
    }


def _number(text: str) -> float | None:
    """A decimal number, as headers may hold it; None for words, NaN and what float() alone would take."""
    text = text.strip()
    if len(text) > 32 or not text.isascii() or "_" in text:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number
