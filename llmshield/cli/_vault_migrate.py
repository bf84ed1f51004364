"""`llmshield vault migrate`: keys that a JSON file, a CSV file or an SQLite table holds in base64 become sealed ones.

All or nothing: every row is read before anything is written, one that can't be read ends it with its place. A backup is
made first; files are replaced as a whole, a table is changed in one transaction. What is sealed already stays as it is
(under a previous master key: it is sealed anew), so a second run changes nothing.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import enum
import io
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmshield import clock
from llmshield.errors import SecretError

if TYPE_CHECKING:
    from llmshield.sealing import KeyRing

MAX_BYTES = 256 * 2**20
_OWNERS = ("provider", "provider_name", "name")


class Encoding(enum.StrEnum):
    """How keys stand in the old rows."""

    base64 = "base64"
    plain = "plain"


@dataclass(slots=True)
class Plan:
    """What to look for, and what came of it."""

    ring: KeyRing
    column: str
    owner_column: str | None
    owner: str | None
    encoding: Encoding
    sealed: int = 0
    again: int = 0
    kept: int = 0
    empty: int = 0
    names: list[str] = field(default_factory=list)

    @property
    def changes(self) -> int:
        """How many rows are written."""
        return self.sealed + self.again

    def value(self, old: Any, owner: Any, place: str) -> str | None:
        """What stands in this row from now on; None: what stands there. Raises: SecretError, naming the place."""
        if isinstance(old, bytes):
            old = old.decode("ascii", "replace")
        if old is None or old == "":
            self.empty += 1
            return None
        try:
            if not isinstance(old, str):
                raise SecretError("found no text")
            name = self.owner or (owner if isinstance(owner, str) else "")
            if not name:
                raise SecretError("it does not say whose key it is; name the column with --provider-column")
            made = self._again(old, name) if old.startswith("enc://") else self._sealed(old, name)
        except SecretError as error:
            raise SecretError(f"{place}: {error}") from None
        if made is not None:
            self.names.append(name)
        return made

    def _again(self, old: str, name: str) -> str | None:
        """A sealed one is opened whatever its key: one of another row is found, and changes nothing."""
        secret = self.ring.unseal_reference(old, name)
        if self.ring.is_current_reference(old):
            self.kept += 1
            return None
        self.again += 1
        return self.ring.seal_reference(secret, name)

    def _sealed(self, old: str, name: str) -> str:
        from llmshield.redact import remember
        from llmshield.resolvers._value import clean

        text = old.strip()
        remember(text)
        if self.encoding is Encoding.base64:
            try:
                coded = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
                text = base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True).decode("ascii")
            except ValueError:
                raise SecretError(
                    "found no base64 of a key; --encoding plain, if keys stand there as they are"
                ) from None
        secret = clean(text, "the key")
        remember(secret)
        self.sealed += 1
        return self.ring.seal_reference(secret, name)


def migrate(path: Path, plan: Plan, *, table: str | None, dry: bool, backup: bool) -> Path | None:
    """Seal the rows of a file; where the backup is, if one was made. Raises: SecretError; nothing is changed then."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if start == b"SQLite format 3\0":
            return _sqlite(path, plan, table, dry=dry, backup=backup)
        if path.suffix.lower() == ".csv":
            return _file(path, plan, _csv, dry=dry, backup=backup)
        if path.suffix.lower() == ".json" or start.lstrip()[:1] in (b"{", b"["):
            return _file(path, plan, _json, dry=dry, backup=backup)
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror or type(error).__name__}") from None
    raise SecretError(f"{path}: expected a .json or .csv file, or an SQLite database")


# -- files -------------------------------------------------------------------------------------------------------------


def _file(
    path: Path, plan: Plan, change: Callable[[str, Plan], str], *, dry: bool, backup: bool
) -> Path | None:
    if path.stat().st_size > MAX_BYTES:
        raise SecretError(f"{path}: larger than {MAX_BYTES} bytes")
    data = path.read_bytes()
    mark = "\ufeff" if data.startswith(b"\xef\xbb\xbf") else ""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SecretError(f"{path}: no UTF-8 text") from None
    changed = change(text, plan)
    if dry or not plan.changes:
        return None
    kept = _beside(path)
    if backup:
        _written(kept, data, 0o600)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    beside.unlink(missing_ok=True)
    _written(beside, (mark + changed).encode(), stat.S_IMODE(path.stat().st_mode))
    beside.replace(path)
    return kept if backup else None


def _json(text: str, plan: Plan) -> str:
    """A list of objects, an object of objects, or an object of texts; by name where there is no column for it."""
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise SecretError(f"no JSON: {error}") from None
    rows: Iterator[tuple[str, Any, Any]]
    if isinstance(tree, list):
        rows = ((f"[{index}]", row, None) for index, row in enumerate(tree))
    elif isinstance(tree, dict):
        rows = ((f"[{name!r:.60}]", row, name) for name, row in tree.items())
    else:
        raise SecretError("expected a list of objects, or an object")
    holder: Any
    for place, row, name in list(rows):
        if isinstance(row, dict):
            if plan.column not in row:
                raise SecretError(f"{place}: there is no {plan.column!r}; name the column with --column")
            holder, key = row, plan.column
            owner = row.get(plan.owner_column) if plan.owner_column else next(
                (row[each] for each in _OWNERS if isinstance(row.get(each), str)), name
            )  # fmt: skip
        elif name is not None:
            holder, key, owner = tree, name, name
        else:
            raise SecretError(f"{place}: expected an object")
        made = plan.value(holder[key], owner, place)
        if made is not None:
            holder[key] = made
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _csv(text: str, plan: Plan) -> str:
    """A table with a head; its delimiter and line ends stay."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t|", key=head.count)
    rows = (
        list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        if text.strip()
        else []
    )
    if not rows:
        raise SecretError("the file is empty; expected a head line and rows")
    column = _position(rows[0], plan.column, "--column")
    owner = _owner_position(rows[0], plan)
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) <= max(column, owner or 0):
            raise SecretError(f"row {number}: it has fewer columns than the head")
        made = plan.value(row[column], row[owner] if owner is not None else None, f"row {number}")
        if made is not None:
            row[column] = made
    out = io.StringIO(newline="")
    ends = "\r\n" if head.endswith("\r") else "\n"
    csv.writer(out, delimiter=delimiter, lineterminator=ends).writerows(rows)
    return out.getvalue()


def _position(names: list[str], name: str, option: str) -> int:
    if name not in names:
        raise SecretError(
            f"there is no column {name!r:.60}; name it with {option} (there is {', '.join(names)[:200]})"
        )
    return names.index(name)


def _owner_position(names: list[str], plan: Plan) -> int | None:
    if plan.owner is not None:
        return None
    if plan.owner_column is not None:
        return _position(names, plan.owner_column, "--provider-column")
    return next((names.index(each) for each in _OWNERS if each in names), None)


# -- tables ------------------------------------------------------------------------------------------------------------


def _sqlite(path: Path, plan: Plan, table: str | None, *, dry: bool, backup: bool) -> Path | None:
    if table is None:
        raise SecretError("which table? say --table NAME")
    kept: Path | None = None
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as database:
            database.execute("PRAGMA secure_delete = ON")  # old keys are overwritten, not only forgotten
            database.execute("BEGIN IMMEDIATE")
            names = [row[1] for row in database.execute(f"PRAGMA table_info({_quoted(table)})")]
            if not names:
                raise SecretError(f"there is no table {table!r:.60}")
            column = _quoted(names[_position(names, plan.column, "--column")])
            at = _owner_position(names, plan)
            owner = _quoted(names[at]) if at is not None else "NULL"
            found = database.execute(f"SELECT rowid, {column}, {owner} FROM {_quoted(table)} ORDER BY rowid")  # noqa: S608  names that the table has, quoted
            changes = [
                (made, rowid, old)
                for rowid, old, name in found.fetchall()
                if (made := plan.value(old, name, f"{table} row {rowid}")) is not None
            ]
            if dry or not changes:
                database.execute("ROLLBACK")
                return None
            if backup:
                kept = _beside(path)
                _written(kept, b"", 0o600)
                with (
                    contextlib.closing(sqlite3.connect(path)) as source,
                    contextlib.closing(sqlite3.connect(kept)) as target,
                ):
                    source.backup(target)
            database.executemany(
                f"UPDATE {_quoted(table)} SET {column} = ? WHERE rowid = ? AND {column} IS ?",  # noqa: S608
                changes,
            )
            database.execute("COMMIT")
            with contextlib.suppress(
                sqlite3.OperationalError
            ):  # a reader holds it; the pages are overwritten anyway
                database.execute("VACUUM")
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise SecretError(f"{path}: SQLite: {error}") from None
    return kept


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _beside(path: Path) -> Path:
    stamp = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m%dT%H%M%SZ")
    return path.with_name(f"{path.name}.{stamp}.bak")


def _written(path: Path, data: bytes, mode: int) -> None:
    """A new file, on disk before anything depends on it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
