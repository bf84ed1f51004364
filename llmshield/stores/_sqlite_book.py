"""Which book a SQLite file holds: its epoch, checked in every transaction of the book.

A file that is new, was replaced or restored has another epoch than its users know, or fewer entries than they
have seen; it is marked as lost for everybody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from llmshield.stores import LOST, REBUILDING, Book, book_of

P = ParamSpec("P")
R = TypeVar("R")


class Turned(NamedTuple):
    """Nothing was done: the book is another one than the caller knows. `epoch` follows that one; empty: it is lost."""

    epoch: str


def guarded(
    connection: sqlite3.Connection,
    epoch: str,
    step: Callable[Concatenate[sqlite3.Connection, P], R],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R | Turned:
    """A step of the book that the caller knows, or none."""
    there = _there(connection)
    if there == epoch:
        return step(connection, *args, **kwargs)
    shut = there == LOST or there.startswith(REBUILDING)
    past = not epoch or _known(connection, epoch, "past")
    if there and not shut and past:
        return Turned(there)
    if not past:
        doubt(connection, epoch)
    return Turned("")


def of_book(
    connection: sqlite3.Connection,
    epoch: str,
    step: Callable[Concatenate[sqlite3.Connection, P], R],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R | Turned:
    """`guarded` of a connection that only reads: of another book it says no more than that."""
    return step(connection, *args, **kwargs) if _there(connection) == epoch else Turned("")


def doubt(connection: sqlite3.Connection, epoch: str) -> None:
    """Somebody knows an epoch that this file does not: the book is lost for all."""
    connection.execute("INSERT OR REPLACE INTO epoch VALUES (?, 'doubted')", (epoch,))
    if not _there(connection).startswith(REBUILDING):
        connection.execute("INSERT OR REPLACE INTO book VALUES ('epoch', ?)", (LOST,))


def check(connection: sqlite3.Connection, epoch: str, seen: int) -> None:
    """A file that is this book, and has fewer entries than were seen, is an older copy of it."""
    if _there(connection) == epoch and _count(connection) < seen:
        doubt(connection, epoch)


def book(connection: sqlite3.Connection) -> Book:
    """See `Store.book`."""
    doubted = connection.execute("SELECT id FROM epoch WHERE kind = 'doubted' ORDER BY id")
    return book_of(_there(connection), _count(connection), [row[0] for row in doubted])


def begin(connection: sqlite3.Connection, epoch: str) -> None:
    """See `Store.begin`."""
    connection.execute("INSERT OR IGNORE INTO book VALUES ('epoch', ?)", (epoch,))


def turn(connection: sqlite3.Connection, epoch: str, past: Sequence[str], wipe: bool) -> None:
    """See `Store.turn`."""
    there = _there(connection)
    if there and there != epoch and there != LOST and not there.startswith(REBUILDING):
        past = [*past, there]
    connection.executemany("INSERT OR REPLACE INTO epoch VALUES (?, 'past')", [(each,) for each in past])
    connection.execute("INSERT OR REPLACE INTO book VALUES ('epoch', ?)", (epoch,))
    if epoch != LOST and not epoch.startswith(REBUILDING):
        connection.execute("UPDATE epoch SET kind = 'past' WHERE kind = 'doubted'")
        connection.execute("DELETE FROM epoch WHERE id = ?", (epoch,))
    if wipe:
        connection.execute("DELETE FROM account")
        connection.execute("DELETE FROM hold")


def _there(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT value FROM book WHERE name = 'epoch'").fetchone()
    return row[0] if row is not None else ""


def _known(connection: sqlite3.Connection, epoch: str, kind: str) -> bool:
    found = connection.execute("SELECT 1 FROM epoch WHERE id = ? AND kind = ?", (epoch, kind)).fetchone()
    return found is not None


def _count(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0]
    return count
