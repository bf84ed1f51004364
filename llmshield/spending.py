"""What was spent, by any combination of tenant, model, provider, key, tier, tag and time, from the store's journal.

An amount counts for the moment at which it was settled. Keys, tiers and tags are known of calls for which a cap of
`cost_cap` names them in `by`; of others they are empty. Amounts are exact decimals. The journal is read in pages, beside
its writers; whoever shares the event loop gets a turn between them.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import unquote

from llmshield import clock
from llmshield.policy.globs import compile_globs
from llmshield.policy.units import duration
from llmshield.prices import usd
from llmshield.stores import Entry, Store
from llmshield.windows import day_begins, day_of, zone_info

Read: TypeAlias = Callable[[Entry], str]
Filter: TypeAlias = tuple[Read, Callable[[str], bool]]

FIGURES = ("requests", "input_tokens", "output_tokens", "usd")
"""What is told of each group."""
_TURN = 500
"""Entries between two turns of the event loop: about a millisecond."""


WORDS: Mapping[str, Read] = {
    "tenant": lambda entry: entry.labels.tenant,
    "model": lambda entry: entry.labels.model,
    "provider": lambda entry: entry.labels.provider,
    "key": lambda entry: part(entry, "key"),
    "tier": lambda entry: part(entry, "tier"),
}
TIMES = ("hour", "day", "week", "month")
"""What may be grouped by, besides `tag:NAME`."""


class Misuse(Exception):
    """A wish that can't be understood; the text says what was expected."""


class Crowded(Exception):
    """There are more groups than were wanted."""


async def rows(
    store: Store,
    reads: Mapping[str, Read],
    wanted: Sequence[Filter] = (),
    since_ms: int = 0,
    until_ms: int | None = None,
    *,
    most: int = 2**31,
) -> list[dict[str, Any]]:
    """The groups in order, each with its names and `FIGURES`. The store is open.

    Raises: StoreUnavailable; Crowded for more than `most` groups.
    """
    sums: dict[tuple[str, ...], list[int]] = {}
    seen = 0
    async for entry in store.journal(since_ms, until_ms):
        seen += 1
        if seen % _TURN == 0:
            await asyncio.sleep(0)
        if entry.id.startswith("lock.") or not all(matches(read(entry)) for read, matches in wanted):
            continue
        found = sums.setdefault(tuple([read(entry) for read in reads.values()]), [0, 0, 0, 0])
        if len(sums) > most:
            raise Crowded
        found[0] += entry.kind != "correct"
        found[1] += entry.tokens_in
        found[2] += entry.tokens_out
        found[3] += entry.amount
    return [
        {**dict(zip(reads, key, strict=True)), "requests": found[0], "input_tokens": found[1],
         "output_tokens": found[2], "usd": usd(found[3])}
        for key, found in sorted(sums.items())
    ]  # fmt: skip


def groups(by: str, zone: str) -> dict[str, Read]:
    """How each word of `tenant,model,day` is read of an entry. Raises: Misuse."""
    reads: dict[str, Read] = {}
    for name in [name.strip() for name in by.split(",") if name.strip()]:
        reads[name] = _when(name, zone) if name in TIMES else _word(name, "by")
    if not reads:
        raise Misuse(f"by {by!r:.80}: expected some of {', '.join([*WORDS, 'tag:NAME', *TIMES])}")
    return reads


def filters(only: Iterable[str]) -> list[Filter]:
    """What entries have to match; several values of one word are alternatives. Raises: Misuse."""
    globs: dict[str, list[str]] = {}
    for item in only:
        name, equals, glob = item.partition("=")
        if not equals or not glob:
            raise Misuse(
                f"only {item!r:.80}: expected a word and a value, such as tenant=acme or model=gpt-*"
            )
        globs.setdefault(name.strip(), []).append(glob)
    return [(_word(name, "only"), compile_globs(values)) for name, values in globs.items()]


def moment(text: str | None, zone: str) -> int | None:
    """A day, a moment or a time ago, in milliseconds since 1970. Raises: Misuse."""
    if text is None:
        return None
    try:
        if text[-1:].isalpha() and text[:1].isdigit() and "-" not in text:
            return int((clock.now() - duration(text)) * 1000)
        at = datetime.fromisoformat(text)
        if len(text) <= 10:
            return int(day_begins(at.date(), zone) * 1000)
        if at.tzinfo is None:
            at = at.replace(tzinfo=zone_info(zone))
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Misuse(
            f"{text!r:.80}: expected a day such as 2026-11-20, a moment such as 2026-11-20T14:30, or a time such as 7d"
        ) from None


def part(entry: Entry, name: str) -> str:
    """What an entry's accounts say of the call's key, tier or tag; empty where no cap counts by it."""
    mark = name + "="
    for account, _ in entry.accounts:
        if account.startswith("cap="):
            for each in account.split(",")[1:]:
                if each.startswith(mark):
                    return unquote(each[len(mark) :])
    return ""


def as_csv(names: Iterable[str], found: Iterable[Mapping[str, Any]]) -> str:
    """The groups as a table of comma-separated values; no cell is a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = (*names, *FIGURES)
    writer.writerow(columns)
    for row in found:
        writer.writerow([_plain(str(row[name])) for name in columns])
    return out.getvalue()


def _word(name: str, option: str) -> Read:
    if name in WORDS:
        return WORDS[name]
    if name.startswith("tag:") and name != "tag:":
        return lambda entry: part(entry, name)
    known = [*WORDS, "tag:NAME", *(TIMES if option == "by" else ())]
    raise Misuse(f"{option} {name!r:.80}: expected some of {', '.join(known)}")


def _when(period: str, zone: str) -> Read:
    """The hour, day, week or month in which an entry was settled, as the zone tells it."""
    rules = zone_info(zone)

    def hour(entry: Entry) -> str:
        at = datetime.fromtimestamp(entry.at_ms / 1000, rules)
        # The hour that a zone tells twice is told apart by its offset.
        return f"{at:%Y-%m-%dT%H}" if zone == "UTC" else f"{at:%Y-%m-%dT%H%z}"

    def day(entry: Entry) -> str:
        return day_of(entry.at_ms / 1000, zone).isoformat()

    def week(entry: Entry) -> str:
        found = day_of(entry.at_ms / 1000, zone)
        return f"{found - timedelta(days=found.weekday()):%G-W%V}"

    return {"hour": hour, "day": day, "week": week, "month": lambda entry: day(entry)[:7]}[period]


def _plain(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return (
        f"'{cell}"
        if cell[:1] in ("=", "+", "@", "\t", "\r") or (cell[:1] == "-" and not cell[1:2].isdigit())
        else cell
    )
