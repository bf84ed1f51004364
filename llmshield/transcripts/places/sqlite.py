"""`sqlite:///transcripts.db`: one file of this machine; several processes may share it.

What is taken out is overwritten with zeros (`secure_delete`), but the write-ahead log has every page as it was, and
whoever else writes to the file (a shell, a tool) need not overwrite anything. So `scrub` writes the file anew
(`VACUUM`: nothing hangs on how SQLite treats its free pages), empties the log, and looks for the key in the bytes of
every file. Blocks that the file system or the disk has given up are out of reach of any program; the keys in them are
sealed.

The file is made with mode 0600, and so are its log and its index.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmshield.errors import StoreError, StoreUnavailable
from llmshield.stores import StoreUrl
from llmshield.stores._trouble import sqlite_trouble
from llmshield.transcripts.places import Entry, Owner, Place, Row

_WAIT_S = 5.0
"""Longest wait for another process: nobody's call waits for it."""
_LOG_BYTES = 8 * 2**20
_PAGE_OF = 500
"""Rows that are read at once."""

_TABLES = """
CREATE TABLE IF NOT EXISTS transcripts_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS person (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, tenant TEXT NOT NULL, pseudonym TEXT NOT NULL, sealed BLOB NOT NULL,
  born INTEGER NOT NULL, UNIQUE (name, tenant));
CREATE TABLE IF NOT EXISTS transcript (
  person TEXT NOT NULL, id TEXT NOT NULL, until_ms INTEGER NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (person, id));
CREATE INDEX IF NOT EXISTS transcript_end ON transcript (until_ms);
"""


class SqlitePlace(Place):
    """One file."""

    def __init__(self, url: StoreUrl) -> None:
        super().__init__(url)
        if not url.path:
            raise StoreError("found sqlite:// without a file, expected one such as sqlite:///transcripts.db")
        self.path = Path(url.path)
        self._connection: sqlite3.Connection | None = None

    @property
    def name(self) -> str:
        return f"sqlite:///{self.path}"

    @property
    def files(self) -> list[Path]:
        """The file and those beside it that SQLite makes, as far as they are there."""
        beside = [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm", "-journal")]
        return [path for path in beside if path.exists()]

    def open(self, *, make: bool = True) -> bool:
        if self._connection is not None:
            return True
        if not make and not self.path.exists():
            return False
        if not self.path.parent.is_dir():
            raise StoreError(
                f"the folder of {str(self.path)!r} does not exist; make it, or name another file"
                " (sqlite:///relative.db, sqlite:////absolute.db)"
            )
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnavailable(f"{str(self.path)!r} can't be opened: {error.strerror}") from None
        deadline = time.monotonic() + _WAIT_S
        while self._connection is None:
            try:
                self._connection = _connect(self.path)
            except sqlite3.DatabaseError as error:
                # several processes that turn a new file to WAL at once: all but one are told that it is locked
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise sqlite_trouble(str(self.path), error) from error
                time.sleep(0.02)
        return True

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextlib.contextmanager
    def _step(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises: StoreUnavailable."""
        connection = self._connection
        if connection is None:
            raise StoreUnavailable(f"{self.name} is not open")
        try:
            if not writes:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk may have rolled it back already
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise sqlite_trouble(str(self.path), error) from error

    # -- keys

    def mark(self, value: bytes | None) -> bytes | None:
        with self._step(writes=value is not None) as connection:
            if value is not None:
                connection.execute("INSERT OR IGNORE INTO transcripts_meta VALUES ('mark', ?)", (value,))
            row = connection.execute("SELECT value FROM transcripts_meta WHERE name = 'mark'").fetchone()
        return row[0] if row is not None else None

    def remark(self, value: bytes) -> None:
        with self._step(writes=True) as connection:
            connection.execute("INSERT OR REPLACE INTO transcripts_meta VALUES ('mark', ?)", (value,))

    def erasures(self) -> int:
        with self._step() as connection:
            return _erasures(connection)

    def find(self, owner: Owner) -> Entry | None:
        with self._step() as connection:
            return _entry(connection, owner)

    def add(self, owner: Owner, entry: Entry) -> Entry | None:
        with self._step(writes=True) as connection:
            if _erasures(connection) != entry.born:
                return None
            connection.execute(
                "INSERT INTO person (name, tenant, pseudonym, sealed, born) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (*owner, *entry),
            )
            return _entry(connection, owner)

    def named(self, name: str) -> list[tuple[Owner, Entry]]:
        with self._step() as connection:
            rows = connection.execute(
                "SELECT name, tenant, pseudonym, sealed, born FROM person WHERE name = ? ORDER BY tenant",
                (name,),
            ).fetchall()
        return [(Owner(*row[:2]), Entry(*row[2:])) for row in rows]

    def page(self, cursor: str = "") -> tuple[list[tuple[Owner, Entry]], str]:
        with self._step() as connection:
            rows = connection.execute(
                "SELECT id, name, tenant, pseudonym, sealed, born FROM person WHERE id > ? ORDER BY id LIMIT ?",
                (int(cursor or 0), _PAGE_OF),
            ).fetchall()
        more = str(rows[-1][0]) if len(rows) == _PAGE_OF else ""
        return [(Owner(*row[1:3]), Entry(*row[3:])) for row in rows], more

    def move(self, owner: Owner, old: Entry, new_owner: Owner, sealed: bytes) -> bool:
        with self._step(writes=True) as connection:
            if _entry(connection, owner) != old or (new_owner != owner and _entry(connection, new_owner)):
                return False
            connection.execute(
                "UPDATE person SET name = ?, tenant = ?, sealed = ? WHERE name = ? AND tenant = ?",
                (*new_owner, sealed, *owner),
            )
            return True

    def destroy(self, owners: Sequence[Owner], *, erasing: bool) -> int:
        with self._step(writes=True) as connection:
            if erasing:
                connection.execute(
                    "INSERT INTO transcripts_meta VALUES ('erasures', 1)"
                    " ON CONFLICT DO UPDATE SET value = value + 1"
                )
            return sum(
                connection.execute("DELETE FROM person WHERE name = ? AND tenant = ?", owner).rowcount
                for owner in owners
            )

    def scrub(self, gone: Sequence[bytes]) -> list[str]:
        deadline = time.monotonic() + _WAIT_S
        while True:
            with self._step() as connection:
                try:
                    connection.execute("VACUUM")
                    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error):
                        raise
                    busy = 1
            if not busy:
                break
            if time.monotonic() > deadline:
                return [
                    f"another process reads {self.name} and keeps its log from being emptied: keys that were destroyed may"
                    " still be in it, sealed; look who has it open (`fuser`), and erase again"
                ]
            time.sleep(0.02)
        return [
            f"{path} still has bytes of a destroyed key, sealed; stop what else uses it, and erase again"
            for path in self.files
            if _holds(path, gone)
        ]

    # -- transcripts

    def append(self, rows: Sequence[Row]) -> None:
        with self._step(writes=True) as connection:
            connection.executemany("INSERT OR REPLACE INTO transcript VALUES (?, ?, ?, ?)", rows)

    def read(self, person: str, now_ms: int) -> Iterator[Row]:
        last = ""
        while True:
            with self._step() as connection:
                rows = connection.execute(
                    "SELECT person, id, until_ms, sealed FROM transcript"
                    " WHERE person = ? AND id > ? AND until_ms > ? ORDER BY id LIMIT ?",
                    (person, last, now_ms, _PAGE_OF),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][1]
            for row in rows:
                yield Row(*row)

    def people(self) -> set[str]:
        with self._step() as connection:
            return {person for (person,) in connection.execute("SELECT DISTINCT person FROM transcript")}

    def having(self, people: Sequence[str]) -> set[str]:
        with self._step() as connection:
            return {
                person
                for person in people
                if connection.execute(
                    "SELECT 1 FROM transcript WHERE person = ? LIMIT 1", (person,)
                ).fetchone()
            }

    def remove(self, people: Sequence[str]) -> int:
        with self._step(writes=True) as connection:
            return sum(
                connection.execute("DELETE FROM transcript WHERE person = ?", (person,)).rowcount
                for person in people
            )

    def sweep(self, now_ms: int) -> int:
        with self._step(writes=True) as connection:
            return connection.execute("DELETE FROM transcript WHERE until_ms <= ?", (now_ms,)).rowcount


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA temp_store=MEMORY")  # what VACUUM copies stays out of /tmp
        connection.execute(f"PRAGMA journal_size_limit={_LOG_BYTES}")
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _erasures(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM transcripts_meta WHERE name = 'erasures'").fetchone()
    return int(row[0]) if row is not None else 0


def _entry(connection: sqlite3.Connection, owner: Owner) -> Entry | None:
    row = connection.execute(
        "SELECT pseudonym, sealed, born FROM person WHERE name = ? AND tenant = ?", owner
    ).fetchone()
    return Entry(*row) if row is not None else None


def _holds(path: Path, needles: Sequence[bytes]) -> bool:
    """Whether any of these bytes is in a file; read in parts that overlap."""
    if not needles:
        return False
    longest = max(map(len, needles))
    try:
        with path.open("rb") as file:
            rest = b""
            while part := file.read(2**20):
                data = rest + part
                if any(needle in data for needle in needles):
                    return True
                rest = data[-longest:]
    except FileNotFoundError:  # a log that SQLite has removed meanwhile
        return False
    except OSError as error:
        raise StoreUnavailable(f"{str(path)!r} can't be read: {error.strerror}") from None
    return False
