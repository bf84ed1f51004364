"""`/usage` on the admin port: what each tenant has spent and used, and what it may still.

Money comes from the ledger. Limits on requests and tokens are kept by plugins: each tells the windows of a tenant
(`Plugin.windows_of`), and the store says how full they are. Asking counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llmshield import clock
from llmshield.hookspecs import Plugin
from llmshield.ledger import Ledger
from llmshield.prices import PICO_PER_USD, usd
from llmshield.stores import Store, Window

_MORE_THAN_ANY = 10**15
"""Asking for more than any limit has is refused, and the answer says how much is used."""

_AT_ONCE = 200
"""Windows in one step: it holds the store for a millisecond."""

PER = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


async def usage(
    ledger: Ledger, store: Store, plugins: Iterable[Plugin], tenants: Sequence[str]
) -> dict[str, Any]:
    """The page. `tenants` are shown even if they never called. Raises: StoreUnavailable."""
    page = await ledger.usage(tenants)
    tellers = [plugin for plugin in plugins if type(plugin).windows_of is not Plugin.windows_of]
    asked: list[tuple[str, str, Window]] = []
    for tenant in page["tenants"] if tellers else ():
        for teller in tellers:
            for unit, windows in teller.windows_of(tenant).items():
                asked += [(tenant, unit, window) for window in windows]
    limits: dict[str, list[dict[str, Any]]] = {}
    for at in range(0, len(asked), _AT_ONCE):
        part = asked[at : at + _AT_ONCE]
        now_ms = int(clock.now() * 1000)
        said = await store.admit([window for _, _, window in part], (), now_ms, _MORE_THAN_ANY)
        for (tenant, unit, window), used, reset_ms in zip(part, said.used, said.resets_ms, strict=True):
            limits.setdefault(tenant, []).append(
                {
                    "unit": unit,
                    "limit": window.limit,
                    "per": PER.get(window.seconds, f"{window.seconds}s"),
                    "used": used,
                    "remaining": max(0, window.limit - used),
                    "resets_in_s": -(-reset_ms // 1000),
                }
            )
    for tenant, entry in page["tenants"].items():
        entry["limits"] = limits.get(tenant, [])
        entry["remaining"] = _remaining(entry)
    return page


def _remaining(entry: dict[str, Any]) -> dict[str, int | str | None]:
    """What the tightest limit of each kind leaves; None where there is none."""

    def least(unit: str) -> int | None:
        return min((each["remaining"] for each in entry["limits"] if each["unit"] == unit), default=None)

    money = [each["remaining_usd"] for each in entry["budgets"]]
    return {
        "requests": least("requests"),
        "tokens": least("tokens"),
        "usd": usd(min(_picousd(each) for each in money)) if money else None,
    }


def _picousd(text: str) -> int:
    whole, _, rest = text.partition(".")
    return int(whole) * PICO_PER_USD + int(rest)
