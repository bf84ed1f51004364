"""`warn_at`: one warning for each share of a budget and each window, whichever process sees it first.

Settling an attempt only notes which budgets it touched; how they stand is asked once a second, in one step of the
store for all of them. Who is the first to write a note of a share gives the warning: a line in the log and a count
in `llmshield_budget_warnings_total`. A rolling budget warns again a window's length later at the earliest.
"""

from __future__ import annotations

from llmshield.budgets import percent, threshold
from llmshield.errors import StoreUnavailable
from llmshield.ledger import Cap, Ledger, Reservation
from llmshield.logs import log
from llmshield.metrics import Metrics
from llmshield.prices import usd
from llmshield.stores import Line
from llmshield.windows import is_rolling
from llmshield_plugins.cost_cap.caps import whose

_SHELF = "budget-warnings"
_MOST_KNOWN = 10_000
"""Warnings that this process remembers having seen, so that it asks the store once."""


class Warnings:
    """The warnings of one policy."""

    def __init__(self, ledger: Ledger, metrics: Metrics) -> None:
        self._ledger = ledger
        self._touched: dict[tuple[str, str], tuple[Line, Cap]] = {}
        self._given: set[str] = set()
        self._count = metrics.counter(
            "llmshield_budget_warnings_total", "Shares of a budget that were reached.", "budget", "share"
        )

    def touch(self, held: Reservation) -> None:
        """An attempt was settled: its budgets may have reached a share."""
        for line, cap in zip(held.lines[1:], held.caps, strict=True):
            if cap.warn_at:
                self._touched[line.account, line.window] = (line, cap)

    async def look(self) -> None:
        """Give the warnings that are due. Without a store they come later, when somebody spends again."""
        if not self._touched:
            return
        touched, self._touched = list(self._touched.values()), {}
        try:
            found = await self._ledger.standing([line for line, _ in touched])
            for (line, cap), standing in zip(touched, found, strict=True):
                for share in cap.warn_at:
                    if standing.spent >= threshold(cap, share) > 0:
                        await self._warn(line, cap, share, standing.spent)
        except StoreUnavailable:
            self._touched = {
                (line.account, line.window): (line, cap) for line, cap in touched
            } | self._touched

    async def _warn(self, line: Line, cap: Cap, share: float, spent: int) -> None:
        window = cap.period if is_rolling(cap.period) else line.window
        key = f"{line.account}|{window}|{cap.limit}|{percent(share)}"
        known = f"{key}|{line.window}"
        if known in self._given:
            return
        if await self._ledger.once(_SHELF, key, line.ends_ms / 1000):
            name = whose(cap)
            log.warning(
                "budget_warning", budget=f"{usd(cap.limit)} USD/{cap.period}", of=name, reached=percent(share),
                spent_usd=usd(spent), window=line.window,
            )  # fmt: skip
            self._count.add(1, name, percent(share))
        if len(self._given) >= _MOST_KNOWN:
            self._given.clear()
        self._given.add(known)
