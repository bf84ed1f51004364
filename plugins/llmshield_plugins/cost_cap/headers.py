"""What is left of a budget, as the client reads it in the answer's head."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

from llmshield.ledger import Refusal, Reservation
from llmshield.prices import usd
from llmshield.windows import iso, zone_info

NAME = "x-llmshield-budget-remaining"


def tell(headers: dict[str, str], held: Reservation, cost: int | None = None) -> None:
    """Put what the tightest budget has left into `headers`: beside what is held, or after this call's `cost`
    (pico-USD)."""
    left = held.left
    if left is None:
        return
    if cost is not None:
        left = max(0, left + held.amount - cost)
    headers[NAME] = usd(left) + _until(held.lines[held.line].ends_ms, held.caps[held.line - 1].zone)


def tell_refused(headers: dict[str, str], refusal: Refusal) -> None:
    """Put what the budget that refused has left into `headers`."""
    cap = refusal.cap
    left = max(0, cap.limit - refusal.spent - refusal.held)
    headers[NAME] = usd(left) + _until(int(refusal.resets_at * 1000), cap.zone)


@lru_cache(1024)
def _until(ends_ms: int, zone: str) -> str:
    """The rest of the header: until when, and by whose clock; a rolling budget's is when its last step has gone."""
    if not ends_ms:
        return " USD"
    at = ends_ms / 1000
    if zone == "UTC":
        return f" USD; reset={iso(at)}"
    return f" USD; reset={datetime.fromtimestamp(at, zone_info(zone)).isoformat(timespec='seconds')}; zone={zone}"
