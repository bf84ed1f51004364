"""What stands beside the people of a log: how often somebody was erased, and under which keys people are found.

Two small files in `audit.people`. `erasures` has a byte for each erasure: appending one is atomic, and its size is the
count. `keys` has the public id of each key, a line each, under which names are hashed and keys are sealed: where one of
them is missing, nobody may say that a person is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class Marks:
    """The marks in one folder. Raises: OSError."""

    def __init__(self, folder: Path) -> None:
        self._erasures = folder / "erasures"
        self._keys = folder / "keys"
        self._noted: set[str] = set()

    def erasures(self) -> int:
        """How often somebody was erased here."""
        try:
            return self._erasures.stat().st_size
        except FileNotFoundError:
            return 0

    def count_erasure(self) -> None:
        """One more, durable when this returns."""
        _append(self._erasures, b".")

    def keys(self) -> set[str] | None:
        """Ids of all keys under which there may be people; None: nobody has noted them."""
        try:
            return {
                line.strip() for line in self._keys.read_text("ascii", "replace").splitlines() if line.strip()
            }
        except FileNotFoundError:
            return None

    def is_noted(self, id: str) -> bool:
        """Whether this object has noted it already."""
        return id in self._noted

    def note_key(self, id: str) -> None:
        """From now on there may be people under this key; noted before the first one is."""
        if id in self._noted:
            return
        if id not in (self.keys() or ()):
            _append(self._keys, f"{id}\n".encode())
        self._noted.add(id)

    def replace_keys(self, ids: Iterable[str]) -> None:
        """There are people under these keys only."""
        fresh = self._keys.with_name(f".keys.{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        _append(fresh, "".join(f"{id}\n" for id in sorted(ids)).encode())
        fresh.replace(self._keys)
        sync_folder(self._keys.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _append(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
