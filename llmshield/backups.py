"""Backups of a money book: the SQLite file as it is at one instant, and this machine's journals.

A backup is a folder: `book.db` (SQLite only; Redis has tools of its own), `journals/`, and `manifest.json` with a
checksum of each file. It is made while gateways serve. A restored book is older than what was spent since, so it comes
back closed: `rebuilding` adds what the journals know, and opens it.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from llmshield import clock
from llmshield.errors import StoreError
from llmshield.local_state import Known, LocalState
from llmshield.stores import LOST, StoreUrl

_BOOK, _JOURNALS, _MANIFEST = "book.db", "journals", "manifest.json"
_BUSY_S = 10.0


@dataclass(slots=True, frozen=True)
class Backup:
    """What a backup holds. `at` in seconds since 1970; `book`: it has the SQLite file; `journals`: how many."""

    store: str
    epoch: str
    at: float
    book: bool
    journals: int


def backup(url: StoreUrl, state: LocalState, folder: Path) -> Backup:
    """Write a backup into a new or empty folder. Raises: StoreError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{str(folder)!r} is there already and not empty; name a new folder.")
    try:
        (folder / _JOURNALS).mkdir(parents=True, mode=0o700, exist_ok=True)
        epoch = state.read().epoch
        if url.scheme == "sqlite":
            epoch = _copy_book(Path(url.path), folder / _BOOK) or epoch
        if state.journals.is_dir():
            for path in sorted(state.journals.glob("*.jsonl*")):
                shutil.copy2(path, folder / _JOURNALS / path.name)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        sums = {path.relative_to(folder).as_posix(): _sum(path) for path in files}
        record = {"store": state.store, "epoch": epoch, "at": clock.now(), "files": sums}
        (folder / _MANIFEST).write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"The backup to {str(folder)!r} failed: {error}") from error
    return _backup(record)


def restore(url: StoreUrl, state: LocalState, folder: Path) -> Backup:
    """Put a backup in the place of the book, closed; gateways may be running. Raises: StoreError, nothing is changed."""
    try:
        record: dict[str, Any] = orjson.loads((folder / _MANIFEST).read_bytes())
        wrong = [name for name, checksum in record["files"].items() if _sum(folder / name) != checksum]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{str(folder)!r} holds no whole backup ({error.__class__.__name__}).") from error
    if wrong:
        raise StoreError(f"The backup in {str(folder)!r} is damaged: {wrong[0]} is not what was written.")
    found = _backup(record)
    if found.book != (url.scheme == "sqlite"):
        raise StoreError(
            f"The backup in {str(folder)!r} is of {found.store}, and the policy's store is {state.store}."
        )
    try:
        if found.book:
            _restore_book(folder / _BOOK, Path(url.path), found.epoch)
        state.journals.mkdir(parents=True, mode=0o700, exist_ok=True)
        for path in sorted((folder / _JOURNALS).iterdir()):
            here = state.journals / path.name
            # One of the same name here is the same journal, and has gone on since.
            if not here.exists() and not here.with_name(here.name + ".gz").exists():
                shutil.copy2(path, here)
        if not state.read().epoch:
            state.write(Known(found.epoch))
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"Restoring from {str(folder)!r} failed: {error}") from error
    return found


def _copy_book(source: Path, target: Path) -> str:
    """Copy a SQLite file as it is at one instant, beside its writers; its epoch."""
    if not source.is_file():
        raise StoreError(f"There is no store at {str(source)!r}.")
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)) as one,
        closing(sqlite3.connect(target, timeout=_BUSY_S)) as other,
    ):
        one.backup(other, pages=-1)  # in one step: a copy in several begins anew with every write beside it
        other.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
        if other.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
            raise StoreError(
                f"The SQLite file {str(source)!r} is damaged: its copy fails the integrity check."
            )
        row = other.execute("SELECT value FROM book WHERE name = 'epoch'").fetchone()
    target.chmod(0o600)
    return row[0] if row else ""


def _restore_book(source: Path, target: Path, epoch: str) -> None:
    """Write the copy over the file in one transaction, already closed: nobody spends from it for an instant."""
    with (
        TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder,
        closing(sqlite3.connect(Path(folder) / _BOOK)) as closed,
        closing(sqlite3.connect(source)) as one,
        closing(sqlite3.connect(target, timeout=_BUSY_S)) as other,
    ):
        one.backup(closed)
        if epoch:
            closed.execute("INSERT OR REPLACE INTO book VALUES ('epoch', ?)", (LOST,))
            closed.execute("INSERT OR REPLACE INTO epoch VALUES (?, 'doubted')", (epoch,))
            closed.commit()
        other.execute("PRAGMA journal_mode=WAL")
        (size,) = other.execute("PRAGMA page_size").fetchone()
        closed.execute(f"PRAGMA page_size={size}")  # into a WAL file SQLite copies only pages of its size
        closed.execute("VACUUM")
        closed.backup(other, pages=-1)


def _backup(record: dict[str, Any]) -> Backup:
    names = list(record["files"])
    journals = sum(name.startswith(_JOURNALS + "/") for name in names)
    return Backup(record["store"], record["epoch"], record["at"], _BOOK in names, journals)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
