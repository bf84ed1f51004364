"""What the SQLite store does inside one transaction: tables and one function per step.

Every function gets a connection with an open write transaction. It decides before it writes, so that a refusal
leaves nothing behind.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import cast

import orjson

from llmshield.errors import StoreError
from llmshield.stores import (
    MAX_AMOUNT,
    STEPS,
    Admission,
    Balance,
    Entry,
    EntryKind,
    Grant,
    Labels,
    Line,
    Seat,
    Settled,
    Shortage,
    Standing,
    Window,
)
from llmshield.stores._ages import STEP_KEPT_MS
from llmshield.stores._sums import Steps, add, prune, resets_ms, room, total, wait_ms

VERSION = 2
"""1: without notes and epoch; such a file gets them when it is opened."""

KEPT_MS = 7 * 86_400_000
"""An account outlives its window by a week: a clock that steps back finds what was spent. The journal stays."""

EXPIRED = 200
"""How many holds are charged in one transaction: 5 ms."""

# 4611686018427387903 is MAX_AMOUNT.
_TABLES = """
CREATE TABLE IF NOT EXISTS account (
  name TEXT NOT NULL, "window" TEXT NOT NULL, ends_ms INTEGER NOT NULL,
  spent INTEGER NOT NULL DEFAULT 0 CHECK (spent BETWEEN 0 AND 4611686018427387903),
  held INTEGER NOT NULL DEFAULT 0 CHECK (held BETWEEN 0 AND 4611686018427387903),
  requests INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (name, "window")
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hold (
  id TEXT PRIMARY KEY, amount INTEGER NOT NULL, until_ms INTEGER NOT NULL, lines BLOB NOT NULL,
  tenant TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL, kind TEXT NOT NULL, at_ms INTEGER NOT NULL, amount INTEGER NOT NULL,
  tenant TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL,
  tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, accounts BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS journal_id ON journal (id);
CREATE TABLE IF NOT EXISTS gate (
  name TEXT NOT NULL, seconds INTEGER NOT NULL, steps BLOB NOT NULL, ends_ms INTEGER NOT NULL,
  PRIMARY KEY (name, seconds)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seat (
  name TEXT NOT NULL, id TEXT NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (name, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (
  shelf TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY (shelf, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS note_end ON note (until_ms) WHERE until_ms > 0;
CREATE TABLE IF NOT EXISTS shelf (name TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS book (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epoch (id TEXT PRIMARY KEY, kind TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flush (one INTEGER PRIMARY KEY CHECK (one = 1), times INTEGER NOT NULL);
INSERT OR IGNORE INTO flush VALUES (1, 0);
"""

_CHARGE = """
INSERT INTO account (name, "window", ends_ms, spent, requests, tokens) VALUES (?, ?, ?, max(0, min(?, 4611686018427387903)), ?, ?)
ON CONFLICT DO UPDATE SET spent = max(0, min(spent + ?, 4611686018427387903)), held = max(0, held - ?),
  requests = requests + excluded.requests, tokens = min(tokens + excluded.tokens, 4611686018427387903)
"""
_HOLD = """
INSERT INTO account (name, "window", ends_ms, held) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET held = min(held + excluded.held, 4611686018427387903)
"""
_KNOWN = "SELECT (SELECT amount FROM hold WHERE id = ?), EXISTS (SELECT 1 FROM journal WHERE id = ?)"
_ONE = 'SELECT spent, held FROM account WHERE name = ? AND "window" = ?'
_STEPS = """
SELECT spent, held, "window" FROM account
WHERE name = ? AND "window" >= ? AND "window" < ? AND (spent > 0 OR held > 0) ORDER BY "window"
"""
_FREE = 'UPDATE account SET held = max(0, held - ?) WHERE name = ? AND "window" = ?'
_ENTRY = "INSERT INTO journal VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def create(connection: sqlite3.Connection) -> None:
    """Make what is missing. Raises: StoreError for a file that a newer version wrote."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise StoreError(
                f"The SQLite store was written by a newer llmshield (form {version}, known: {VERSION})"
            )
        for statement in _TABLES.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def ping(connection: sqlite3.Connection) -> None:
    """A step that does nothing."""
    connection.execute("SELECT 1")


def reserve(
    connection: sqlite3.Connection, id: str, lines: Sequence[Line], want: int, least: int, until_ms: int, now_ms: int,
    labels: Labels,
) -> Grant | Shortage:  # fmt: skip
    """See `Store.reserve`."""
    run = connection.execute
    held, ended = run(_KNOWN, (id, id)).fetchone()
    if held is not None or ended:
        return Grant(held or 0, repeated=True)
    amount = want
    least_left, tightest = None, 0
    for index, line in enumerate(lines):
        if line.limit is not None:
            found = _standing(connection, line)
            left = room(line.limit, found.spent, found.held)
            if left < least:
                return Shortage(index, *found)
            amount = min(amount, left)
            if least_left is None or left < least_left:
                least_left, tightest = left, index
    for line in lines:
        run(_HOLD, (line.account, line.window, line.ends_ms, amount))
    keys = orjson.dumps([(line.account, line.window, line.ends_ms) for line in lines])
    run("INSERT INTO hold VALUES (?, ?, ?, ?, ?, ?, ?)", (id, amount, until_ms, keys, *labels))
    return Grant(amount, left=None if least_left is None else least_left - amount, line=tightest)


def settle(
    connection: sqlite3.Connection, id: str, lines: Sequence[Line], actual: int, now_ms: int, labels: Labels,
    tokens_in: int, tokens_out: int,
) -> Settled:  # fmt: skip
    """See `Store.settle`."""
    kind: EntryKind = "settle"
    charge, held = actual, 0
    hold = connection.execute("DELETE FROM hold WHERE id = ? RETURNING amount", (id,)).fetchall()
    if hold:
        held = hold[0][0]
    else:
        ended = connection.execute("SELECT kind, amount FROM journal WHERE id = ?", (id,)).fetchall()
        if any(row[0] != "expire" for row in ended):
            return Settled(0, 0)
        if ended:
            kind, charge = "correct", actual - ended[0][1]
    keys = [(line.account, line.window, line.ends_ms) for line in lines]
    _charge(connection, id, kind, keys, charge, held, now_ms, labels, tokens_in, tokens_out)
    return Settled(charge, held)


def release(connection: sqlite3.Connection, id: str, lines: Sequence[Line]) -> int:
    """See `Store.release`."""
    hold = connection.execute("DELETE FROM hold WHERE id = ? RETURNING amount", (id,)).fetchall()
    if not hold:
        return 0
    amount: int = hold[0][0]
    connection.executemany(_FREE, [(amount, line.account, line.window) for line in lines])
    return amount


def renew(connection: sqlite3.Connection, ids: Sequence[str], until_ms: int) -> int:
    """See `Store.renew`."""
    return connection.executemany(
        "UPDATE hold SET until_ms = ? WHERE id = ?", [(until_ms, id) for id in ids]
    ).rowcount


def expire(connection: sqlite3.Connection, now_ms: int) -> int:
    """See `Store.expire`; `EXPIRED` of them at the most."""
    due = connection.execute(
        "SELECT id, amount, lines, tenant, provider, model FROM hold WHERE until_ms <= ? ORDER BY until_ms LIMIT ?",
        (now_ms, EXPIRED),
    ).fetchall()
    for id, amount, lines, *labels in due:
        connection.execute("DELETE FROM hold WHERE id = ?", (id,))
        _charge(connection, id, "expire", orjson.loads(lines), amount, amount, now_ms, Labels(*labels), 0, 0)
    return len(due)


# Names of a rolling window's steps begin with a digit, those of all others with a letter.
_OLD_ACCOUNTS = """ends_ms BETWEEN 1 AND CASE WHEN "window" < ':' THEN ? ELSE ? END AND held = 0"""
_OLD = {
    "account": f'SELECT name, "window" FROM account WHERE {_OLD_ACCOUNTS}',  # noqa: S608  nothing from outside
    "gate": "SELECT name, seconds FROM gate WHERE ends_ms < ?",
    "seat": "SELECT name, id FROM seat WHERE until_ms < ?",
}
"""What nobody asks for any more, by table."""
_FORGET = {
    "account": f'DELETE FROM account WHERE name = ? AND "window" = ? AND {_OLD_ACCOUNTS}',  # noqa: S608
    "gate": "DELETE FROM gate WHERE name = ? AND seconds = ? AND ends_ms < ?",
    "seat": "DELETE FROM seat WHERE name = ? AND id = ? AND until_ms < ?",
}


def old(connection: sqlite3.Connection, now_ms: int, age_ms: int) -> list[tuple[str, str, str | int]]:
    """Accounts long after their window (`_ages`), gates and seats that count nothing any more: table and key of each."""
    times = _times(now_ms, age_ms)
    return [(table, *row) for table, found in _OLD.items() for row in connection.execute(found, times[table])]


def forget(
    connection: sqlite3.Connection, rows: Sequence[tuple[str, str, str | int]], now_ms: int, age_ms: int
) -> None:
    """Forget these of `old`, if they still are."""
    times = _times(now_ms, age_ms)
    for table, *key in rows:
        connection.execute(_FORGET[table], (*key, *times[table]))


def _times(now_ms: int, age_ms: int) -> dict[str, tuple[int, ...]]:
    return {"account": (age_ms - STEP_KEPT_MS, age_ms - KEPT_MS), "gate": (now_ms,), "seat": (now_ms,)}


def standing(connection: sqlite3.Connection, lines: Sequence[Line]) -> list[Standing]:
    """See `Store.standing`."""
    return [_standing(connection, line) for line in lines]


def _standing(connection: sqlite3.Connection, line: Line) -> Standing:
    if not line.since:
        row = connection.execute(_ONE, line[:2]).fetchone()
        return Standing(*row) if row else Standing(0, 0)
    beyond = line.since.partition(":")[0] + ";"  # the character after the colon
    rows = connection.execute(_STEPS, (line.account, line.since, beyond)).fetchall()
    spent, held = sum([row[0] for row in rows]), sum([row[1] for row in rows])
    return Standing(min(spent, MAX_AMOUNT), min(held, MAX_AMOUNT), rows[0][2] if rows else "")


def balances(connection: sqlite3.Connection, prefix: str) -> list[Balance]:
    """See `Store.balances`; `substr`, because a name may hold LIKE's wildcards."""
    rows = connection.execute(
        'SELECT name, "window", spent, held, requests, tokens FROM account'
        ' WHERE name >= ? AND substr(name, 1, length(?)) = ? ORDER BY name, "window"',
        (prefix, prefix, prefix),
    )
    return [Balance(*row) for row in rows]


def page(
    connection: sqlite3.Connection, after: int, since_ms: int, until_ms: int | None, limit: int
) -> list[tuple[int, Entry]]:
    """The next entries of the journal after number `after`, each with its number."""
    rows = connection.execute(
        "SELECT seq, id, kind, at_ms, amount, tenant, provider, model, tokens_in, tokens_out, accounts FROM journal"
        " WHERE seq > ? AND at_ms >= ? AND at_ms < ? ORDER BY seq LIMIT ?",
        (after, since_ms, 2**63 - 1 if until_ms is None else until_ms, limit),
    )
    return [
        (row[0], Entry(row[1], row[2], row[3], row[4], Labels(*row[5:8]), row[8], row[9],
                       tuple([(name, window) for name, window in orjson.loads(row[10])])))
        for row in rows
    ]  # fmt: skip


def holds(connection: sqlite3.Connection) -> int:
    """See `Store.holds`."""
    return cast(int, connection.execute("SELECT count(*) FROM hold").fetchone()[0])


def admit(
    connection: sqlite3.Connection, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int
) -> Admission:
    """See `Store.admit`."""
    gates = [_gate(connection, window, now_ms) for window in windows]
    full, longest = -1, 0
    for index, (window, counted) in enumerate(zip(windows, gates, strict=True)):
        if total(counted) + cost > window.limit:
            wait = wait_ms(window, counted, now_ms, cost)
            if wait > longest:
                full, longest = index, wait
    if full < 0:
        for index, seat in enumerate(seats):
            connection.execute("DELETE FROM seat WHERE name = ? AND until_ms <= ?", (seat.key, now_ms))
            taken = {row[0] for row in connection.execute("SELECT id FROM seat WHERE name = ?", (seat.key,))}
            if len(taken) >= seat.limit and seat.id not in taken:
                full = len(windows) + index
                break
    if full < 0:
        for window, counted in zip(windows, gates, strict=True):
            add(counted, now_ms // window.step_ms, cost)
            _put_gate(connection, window, counted)
        sit(connection, seats)
    return Admission(
        full,
        tuple([total(counted) for counted in gates]),
        tuple([resets_ms(window, counted, now_ms) for window, counted in zip(windows, gates, strict=True)]),
        longest,
    )


def count(
    connection: sqlite3.Connection, windows: Sequence[Window], now_ms: int, cost: int, at_ms: int
) -> None:
    """See `Store.count`."""
    for window in windows:
        counted = _gate(connection, window, now_ms)
        add(counted, at_ms // window.step_ms, cost)
        _put_gate(connection, window, counted)


def leave(connection: sqlite3.Connection, seats: Sequence[Seat]) -> None:
    """See `Store.leave`."""
    connection.executemany(
        "DELETE FROM seat WHERE name = ? AND id = ?", [(seat.key, seat.id) for seat in seats]
    )


def sit(connection: sqlite3.Connection, seats: Sequence[Seat]) -> None:
    """See `Store.sit`."""
    connection.executemany(
        "INSERT OR REPLACE INTO seat VALUES (?, ?, ?)", [(seat.key, seat.id, seat.until_ms) for seat in seats]
    )


def _charge(
    connection: sqlite3.Connection, id: str, kind: EntryKind, keys: Sequence[tuple[str, str, int]], charge: int,
    held: int, now_ms: int, labels: Labels, tokens_in: int, tokens_out: int,
) -> None:  # fmt: skip
    requests, tokens = int(kind != "correct"), tokens_in + tokens_out
    for name, window, ends_ms in keys:
        connection.execute(_CHARGE, (name, window, ends_ms, charge, requests, tokens, charge, held))
    accounts = orjson.dumps([(name, window) for name, window, _ in keys])
    connection.execute(_ENTRY, (id, kind, now_ms, charge, *labels, tokens_in, tokens_out, accounts))


def _gate(connection: sqlite3.Connection, window: Window, now_ms: int) -> Steps:
    row = connection.execute(
        "SELECT steps FROM gate WHERE name = ? AND seconds = ?", (window.key, window.seconds)
    ).fetchone()
    counted: Steps = orjson.loads(row[0]) if row else []
    prune(counted, now_ms // window.step_ms)
    return counted


def _put_gate(connection: sqlite3.Connection, window: Window, counted: Steps) -> None:
    ends_ms = (counted[-2] + STEPS + 2) * window.step_ms if counted else 0
    row = (window.key, window.seconds, orjson.dumps(counted), ends_ms)
    connection.execute("INSERT OR REPLACE INTO gate VALUES (?, ?, ?, ?)", row)
