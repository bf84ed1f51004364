"""How a budget stands: what of an account counts for its window, and what is left.

Integers of pico-USD; no store, no clock: both are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmshield.prices import usd
from llmshield.stores import Balance
from llmshield.windows import Window, iso, stops_counting, window


@dataclass(slots=True, frozen=True)
class Cap:
    """At most `limit` pico-USD on `account` in each window of `period` (`windows`), in the time zone `zone`.

    `warn_at` are shares of the limit at which whoever reads `usage` is told.
    """

    account: str
    limit: int
    period: str
    zone: str = "UTC"
    warn_at: tuple[float, ...] = ()


def window_of(cap: Cap, now: float) -> Window:
    """The window of a cap that holds `now`."""
    return window(cap.period, now, cap.zone)


def by_account(balances: Sequence[Balance]) -> dict[str, list[Balance]]:
    """Balances, sorted by the account they are of."""
    found: dict[str, list[Balance]] = {}
    for balance in balances:
        found.setdefault(balance.account, []).append(balance)
    return found


def of_window(balances: Sequence[Balance], name: str, since: str = "") -> list[Balance]:
    """Those that count for a window: that of its name, or all steps of its kind since that one."""
    if not since:
        return [balance for balance in balances if balance.window == name]
    kind = since.partition(":")[0] + ":"
    return [found for found in balances if found.window.startswith(kind) and found.window >= since]


def budget(cap: Cap, balances: Sequence[Balance], now: float) -> dict[str, Any]:
    """How one budget stands, for the admin port."""
    current = window_of(cap, now)
    counted = [each for each in of_window(balances, current.name, current.since) if each.spent or each.held]
    spent, held = sum(each.spent for each in counted), sum(each.held for each in counted)
    ends = stops_counting(cap.period, counted[0].window) if current.since and counted else current.ends
    out: dict[str, Any] = {
        "account": cap.account,
        "limit_usd": usd(cap.limit),
        "window": cap.period,
        "time_zone": cap.zone,
        "spent_usd": usd(spent),
        "held_usd": usd(held),
        "remaining_usd": usd(max(0, cap.limit - spent - held)),
        "resets_at": iso(ends),
    }
    if cap.warn_at:
        out["warned_at"] = [percent(share) for share in cap.warn_at if spent >= threshold(cap, share)]
    return out


def threshold(cap: Cap, share: float) -> int:
    """pico-USD from which this share of a cap is spent; shares have three decimals of a percent."""
    return -(-cap.limit * round(share * 100_000) // 100_000)


def percent(share: float) -> str:
    """A share as a policy writes it: `80%`."""
    return f"{round(share * 100, 3):g}%"
