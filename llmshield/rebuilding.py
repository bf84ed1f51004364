"""A lost book, written again from the journals of the processes that spent.

Each reservation counts once, whatever journals it stands in: at what it was settled for, at nothing if it was released,
and in full if it has no end there, because its call may have been billed. What the store still has is not counted
again. So it may be repeated, interrupted, and given more journals later.

While it runs the book is closed to everybody else (`rebuilding:EPOCH`); then its epoch is the next of the old one's
line, and gateways that know the old one go on in it by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from llmshield import clock
from llmshield.errors import BookLost, StoreError, StoreUnavailable
from llmshield.journals import Reading, Record
from llmshield.local_state import Known, LocalState
from llmshield.stores import REBUILDING, Book, Line, Settled, Store, new_epoch

T = TypeVar("T")

_AT_ONCE = 64
_TRIES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between the tries of a step. A call can't wait for a store that is slow for a moment; who rebuilds a book has to."""


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild did, or with `dry` would do. Amounts in pico-USD."""

    epoch: str
    dry: bool = False
    files: int = 0
    torn: int = 0
    """Lines that could not be read."""
    settled: int = 0
    unended: int = 0
    """Reservations without an end, charged in full."""
    present: int = 0
    """What the store had already."""
    others: int = 0
    """Records of other books, left out."""
    amounts: dict[str, int] = field(default_factory=dict)
    """What was added, by account."""


async def rebuild(
    store: Store, state: LocalState, folders: Sequence[Path] = (), *, dry: bool = False, base: str = ""
) -> Rebuilt:
    """Write the book again. `folders` are the journals of other machines; this one's are always read.

    Raises: StoreError where there is nothing to rebuild, or no telling which book is meant.
    """
    known, book = await _found(store, state)
    own = state.journals
    journals = [*([own] if own.is_dir() else []), *folders]
    reading = Reading(journals)
    base = base or _base(known, book, reading)
    if book.state == "open" and not (folders and base == book.epoch.partition(".")[0]) and not dry:
        raise StoreError(
            "The store has its money book: there is nothing to rebuild. More journals of this book can be added with"
            " --journal; `llmshield budget reset --yes` begins a fresh budget."
        )
    if not await _tells(store, Reading(journals), base):
        raise StoreError(
            f"No journal tells of the book {base}, in {str(own)!r} or elsewhere: an open book would be a fresh budget."
            " Give the folders of the journals with --journal, or say so: `llmshield budget reset --yes`."
        )
    done = Rebuilt(f"{base}.0", dry)
    if not dry:
        await _until_done(lambda: store.turn(REBUILDING + done.epoch))
        store.epoch, store.seen = REBUILDING + done.epoch, 0
    seen = {known.epoch, book.epoch, *book.doubted}
    await _replay(store, _of_book(reading, base, done, seen), done)
    done.files, done.torn = reading.files, reading.torn
    numbers = [each.removeprefix(f"{base}.") for each in seen if each.startswith(f"{base}.")]
    last = max([int(number) for number in numbers if number.isdigit()], default=0)
    done.epoch = f"{base}.{last + 1}"
    if not dry:
        while await _until_done(lambda: store.expire(int(clock.now() * 1000))):
            pass  # some hundred at a time
        # All of this line, also what other machines know.
        past = [f"{base}.{number}" for number in range(last + 1)]
        await _until_done(lambda: store.turn(done.epoch, past))
        store.epoch = done.epoch
        state.write(Known(done.epoch))
    return done


async def reset(store: Store, state: LocalState) -> str:
    """Begin a fresh budget: every amount is forgotten, in every process; the new epoch. Notes stay."""
    known, _ = await _found(store, state)
    epoch = new_epoch()
    await store.turn(epoch, [known.epoch] if known.epoch else [], wipe=True)
    store.epoch, store.seen = epoch, 0
    state.write(Known(epoch))
    return epoch


async def _found(store: Store, state: LocalState) -> tuple[Known, Book]:
    """What this machine knows, and what the store has; a book that is not the known one is lost from here on."""
    known = state.read()
    # Without a name of its own an empty store would get an epoch by being opened.
    store.epoch, store.seen = known.epoch or "unknown", known.steps
    await store.open()
    book = await store.book()
    if book.state == "open" and known.epoch:
        try:
            await store.ping()
        except BookLost:
            book = await store.book()
    return known, book


async def _tells(store: Store, reading: Reading, base: str) -> bool:
    """Whether anything is known of what was spent: by a journal of this line of books, or by the store itself."""
    if any(record.epoch.partition(".")[0] == base for record in reading):
        return True
    entries = store.journal()
    found = await anext(entries, None) is not None
    if isinstance(entries, AsyncGenerator):
        await entries.aclose()
    return found


async def _replay(store: Store, records: Iterable[Record], done: Rebuilt) -> None:
    """Settle what was settled; then charge in full what has no end."""
    present = {entry.id: entry.kind async for entry in store.journal()}
    unended: dict[str, Record] = {}
    ended: set[str] = set()
    notes: dict[tuple[str, str], Record] = {}
    batch: list[Record] = []
    for record in records:
        if present.get(record.id, "expire") != "expire":
            if record.id not in ended:
                ended.add(record.id)
                done.present += 1
        elif record.kind == "n":
            notes[record.shelf, record.id] = record
        elif record.kind == "r":
            if record.id not in ended:
                unended[record.id] = record
        elif record.kind == "f" or record.id not in ended:
            unended.pop(record.id, None)
            ended.add(record.id)
            if record.kind == "s":
                batch.append(record)
                if len(batch) == _AT_ONCE:
                    await _settle(store, batch, done)
                    batch = []
    await _settle(store, batch, done)
    for record in unended.values():
        await _charge_in_full(store, record, done)
    now_ms = int(clock.now() * 1000)
    for note in notes.values():
        if note.value is not None and (not note.until_ms or note.until_ms > now_ms) and not done.dry:
            value = note.value.encode()
            await _until_done(partial(store.put, note.shelf, note.id, value, note.until_ms))


async def _settle(store: Store, batch: Sequence[Record], done: Rebuilt) -> None:
    if done.dry:
        said: Sequence[Settled | None] = [None] * len(batch)
    else:
        steps = [
            partial(store.settle, one.id, one.lines, one.amount, one.at_ms, one.labels, one.tokens_in, one.tokens_out)
            for one in batch
        ]  # fmt: skip
        said = await asyncio.gather(*map(_until_done, steps))
    for record, settled in zip(batch, said, strict=True):
        # (0, 0) says that it was known, or cost nothing: nothing is added either way.
        if settled == Settled(0, 0) and record.amount:
            done.present += 1
        else:
            done.settled += 1
            _add(done, record, record.amount if settled is None else settled.charged)


async def _charge_in_full(store: Store, record: Record, done: Rebuilt) -> None:
    if not done.dry:
        lines = [Line(line.account, line.window, None, line.ends_ms) for line in record.lines]
        grant = await _until_done(
            partial(
                store.reserve,
                record.id,
                lines,
                record.amount,
                record.amount,
                record.at_ms,
                record.at_ms - 1,
                record.labels,
            )
        )
        if getattr(grant, "repeated", False):
            done.present += 1
            return
    done.unended += 1
    _add(done, record, record.amount)


async def _until_done(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step, which happens once however often it is asked, while the store does not answer in time. What a try that
    got no answer has done counts as present. Raises: StoreUnavailable after nine seconds; BookLost."""
    for wait in _TRIES_S:
        try:
            return await step()
        except BookLost:
            raise
        except StoreUnavailable:
            await asyncio.sleep(wait)
    return await step()


def _add(done: Rebuilt, record: Record, amount: int) -> None:
    for line in record.lines:
        name = f"{line.account} {line.window}"
        done.amounts[name] = done.amounts.get(name, 0) + amount


def _of_book(records: Iterable[Record], base: str, done: Rebuilt, seen: set[str]) -> Iterable[Record]:
    for record in records:
        if record.epoch.partition(".")[0] == base:
            seen.add(record.epoch)
            yield record
        else:
            done.others += 1


def _base(known: Known, book: Book, reading: Reading) -> str:
    """The line of books that is meant: what this machine knows, else what was missed, else what all journals say."""
    for epochs in ([known.epoch], [book.epoch], book.doubted, reading.epochs()):
        bases = {epoch.partition(".")[0] for epoch in epochs if epoch}
        if len(bases) == 1:
            return bases.pop()
        if bases:
            raise StoreError(f"Several books are meant: {', '.join(sorted(bases))}; name one with --book.")
    raise StoreError("No journal and no state of this machine tells of a book; give folders with --journal.")
