"""What is left, in the words of draft-ietf-httpapi-ratelimit-headers-11 and of the client's own provider.

OpenAI: https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers; Anthropic:
https://docs.anthropic.com/en/api/rate-limits#response-headers. Both know one limit for requests and one for tokens:
they get the tightest of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from llmshield.stores import Window

Unit = Literal["requests", "tokens"]


def tell(
    headers: dict[str, str], family: str, unit: Unit, names: Sequence[str], windows: Sequence[Window],
    used: Sequence[int], resets_ms: Sequence[int], now: float,
) -> str:  # fmt: skip
    """Put the provider's own headers for the tightest of these windows into `headers`; returns the items of RateLimit
    for all of them."""
    items: list[str] = []
    least, tightest = 2.0, 0
    for index, name in enumerate(names):
        most = windows[index][1]
        left = most - used[index]
        if left < 0:
            left = 0
        items.append(f"{name};r={left};t={(resets_ms[index] + 999) // 1000}")
        if left / most < least:
            least, tightest = left / most, index
    limit, reset_ms = windows[tightest][1], resets_ms[tightest]
    anthropic = family == "anthropic"
    limit_name, left_name, reset_name = (_ANTHROPIC if anthropic else _OPENAI)[unit]
    headers[limit_name] = str(limit)
    headers[left_name] = str(max(0, limit - used[tightest]))
    headers[reset_name] = (
        _rfc3339(int(now + (reset_ms + 999) / 1000))
        if anthropic
        else _go_duration(reset_ms if reset_ms < 60_000 else (reset_ms + 999) // 1000 * 1000)
    )
    return ", ".join(items)


_OPENAI = {
    unit: (f"x-ratelimit-limit-{unit}", f"x-ratelimit-remaining-{unit}", f"x-ratelimit-reset-{unit}")
    for unit in ("requests", "tokens")
}
_ANTHROPIC = {
    unit: tuple(f"anthropic-ratelimit-{unit}-{what}" for what in ("limit", "remaining", "reset"))
    for unit in ("requests", "tokens")
}


@lru_cache(maxsize=4096)
def _rfc3339(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=4096)
def _go_duration(ms: int) -> str:
    """As OpenAI writes durations: `6m0s`, `1.5s`, `12ms`."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest // 1000}s" if rest % 1000 == 0 else f"{rest / 1000:.3f}".rstrip("0") + "s"
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}" if minutes else seconds
