"""The notes of the SQLite store: one function per step, inside one transaction."""

from __future__ import annotations

import sqlite3

from llmshield import clock

_CHANGED = """
INSERT INTO shelf VALUES (?, ?) ON CONFLICT DO UPDATE SET revision = max(revision + 1, excluded.revision)
"""
_THERE = "SELECT value FROM note WHERE shelf = ? AND key = ? AND (until_ms = 0 OR until_ms > ?)"


def put(connection: sqlite3.Connection, shelf: str, key: str, value: bytes, until_ms: int) -> None:
    """See `Store.put`."""
    connection.execute("INSERT OR REPLACE INTO note VALUES (?, ?, ?, ?)", (shelf, key, value, until_ms))
    _changed(connection, shelf)


def put_once(
    connection: sqlite3.Connection, shelf: str, key: str, value: bytes, until_ms: int, now_ms: int
) -> bytes | None:
    """See `Store.put_once`."""
    there = look(connection, shelf, key, now_ms)
    if there is None:
        put(connection, shelf, key, value, until_ms)
    return there


def swap(
    connection: sqlite3.Connection,
    shelf: str,
    key: str,
    old: bytes | None,
    new: bytes,
    until_ms: int,
    now_ms: int,
) -> bytes | None:
    """See `Store.swap`."""
    there = look(connection, shelf, key, now_ms)
    if there != old:
        return there
    put(connection, shelf, key, new, until_ms)
    return new


def look(connection: sqlite3.Connection, shelf: str, key: str, now_ms: int) -> bytes | None:
    """See `Store.look`."""
    row = connection.execute(_THERE, (shelf, key, now_ms)).fetchone()
    return None if row is None else row[0]


def strike(connection: sqlite3.Connection, shelf: str, key: str) -> bool:
    """See `Store.strike`."""
    if not connection.execute("DELETE FROM note WHERE shelf = ? AND key = ?", (shelf, key)).rowcount:
        return False
    _changed(connection, shelf)
    return True


def notes(connection: sqlite3.Connection, shelf: str, now_ms: int) -> dict[str, bytes]:
    """See `Store.notes`."""
    return dict(
        connection.execute(
            "SELECT key, value FROM note WHERE shelf = ? AND (until_ms = 0 OR until_ms > ?)", (shelf, now_ms)
        ).fetchall()
    )


def revision(connection: sqlite3.Connection, shelf: str) -> int:
    """See `Store.revision`."""
    row = connection.execute("SELECT revision FROM shelf WHERE name = ?", (shelf,)).fetchone()
    return 0 if row is None else row[0]


def forget(connection: sqlite3.Connection, now_ms: int) -> None:
    """Forget what has ended."""
    rows = connection.execute(
        "DELETE FROM note WHERE until_ms > 0 AND until_ms <= ? RETURNING shelf", (now_ms,)
    ).fetchall()
    for (shelf,) in set(rows):
        _changed(connection, shelf)


def _changed(connection: sqlite3.Connection, shelf: str) -> None:
    connection.execute(_CHANGED, (shelf, int(clock.now() * 1_000_000)))
