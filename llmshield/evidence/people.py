"""The people that records are about: a name of no meaning for each, and a key that can be destroyed.

A person is who a call names as its `user`, within a tenant. The records know a random pseudonym; what is kept of
their texts is sealed with a random key of their own. Both stand in one small file (`audit.people/ab/<hash>.json`,
0600, the key sealed under the vault's key, or under the sink's where there is no vault). Erasing a person is
destroying that file: the chain stays as it is, and what it holds of them can be read and told together by nobody.
"""

from __future__ import annotations

import base64
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llmshield.errors import SecretError
from llmshield.evidence.identifiers import Identifiers
from llmshield.sealing import KeyRing

LOOK_S = 1.0
"""How soon a process notices that another one has erased a person."""
_KNOWN = 10_000
_NEW_A_SECOND = 500
"""Files that one process makes in a second at the most: `user` is the caller's own word, and may be another one in
every call. Who comes above that is nobody: pseudonym and key are thrown away at once."""


class _Torn(SecretError):
    """A person's file that holds no person."""


class Person(NamedTuple):
    """One person of one tenant, as records know them."""

    pseudonym: str
    ring: KeyRing
    tenant: str = ""


class People:
    """Finds and makes people beside one sink; one per process. For one thread at a time."""

    def __init__(self, sink: Path | None, identifiers: Identifiers) -> None:
        self._folder = people_path(sink) if sink is not None else None
        self._ids = identifiers
        self._known: dict[tuple[str, str], tuple[Person, Path, float]] = {}
        self._second, self._made = 0, 0

    def of(self, tenant: str, user: str) -> Person:
        """Who this is, made at the first sight of them. Raises: OSError."""
        now = time.monotonic()
        held = self._known.get((tenant, user))
        if held is not None:
            person, path, looked = held
            if now - looked < LOOK_S:
                return person
            if path.exists():
                self._known[tenant, user] = (person, path, now)
                return person
        if self._folder is None or not self._room(now):
            return _nobody(tenant)
        found = self._find(tenant, user) or self._make(tenant, user)
        if found is None:
            return _nobody(tenant)
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[tenant, user] = (*found, now)
        return found[0]

    def find(self, user: str, tenant: str | None = None) -> list[Person]:
        """All that have this name, in one tenant or in every. Raises: OSError, SecretError."""
        return [
            person
            for path in self._files(user)
            if (person := self._read(path)) is not None and tenant in {None, person.tenant}
        ]

    def all(self) -> Iterator[Person]:
        """Everybody. Raises: OSError, SecretError."""
        if self._folder is not None and self._folder.is_dir():
            for path in sorted(self._folder.glob("*/*.json")):
                person = self._read(path)
                if person is not None:
                    yield person

    def erase(self, user: str, tenant: str | None = None) -> list[Person]:
        """Destroy the keys of all that have this name: overwritten, synced, removed. Raises: OSError, SecretError."""
        gone = []
        for path in self._files(user):
            try:
                person = self._read(path)
            except SecretError:  # half erased before, or of a key that is lost: nobody can use it
                _destroy(path)
                continue
            if person is not None and tenant in {None, person.tenant}:
                _destroy(path)
                gone.append(person)
        self._known.clear()
        return gone

    def _room(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._made = int(now), 0
        return self._made < _NEW_A_SECOND

    def _names(self, user: str) -> list[str]:
        return [each.removeprefix("hmac:") for each in self._ids.spellings(f"user\0{user}")]

    def _files(self, user: str) -> list[Path]:
        if self._folder is None:
            return []
        found = [
            path for name in self._names(user) for path in (self._folder / name[:2]).glob(f"{name}-*.json")
        ]
        return sorted(found)

    def _path(self, tenant: str, user: str, which: int = 0) -> Path:
        assert self._folder is not None
        name = self._names(user)[which]
        whose = self._ids.spellings(f"tenant\0{tenant}")[which].removeprefix("hmac:")
        return self._folder / name[:2] / f"{name}-{whose}.json"

    def _find(self, tenant: str, user: str) -> tuple[Person, Path] | None:
        for which in range(len(self._ids.macs)):
            path = self._path(tenant, user, which)
            with contextlib.suppress(SecretError):  # of a key that is not here any more: as good as erased
                person = self._read(path)
                if person is not None:
                    return person, path
        return None

    def _make(self, tenant: str, user: str) -> tuple[Person, Path] | None:
        """A new file; of several processes that make it at once, the first has made it."""
        self._made += 1
        path = self._path(tenant, user)
        key, pseudonym = os.urandom(32), f"p:{os.urandom(8).hex()}"
        sealed = self._ids.ring.seal(key, _context(pseudonym))
        said = {"person": pseudonym, "tenant": tenant[:256], "key": base64.b64encode(sealed).decode()}
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, orjson.dumps(said))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
            try:
                person = self._read(path)
            except _Torn:  # somebody was stopped while erasing or writing it: nothing is left in it
                fresh.replace(path)
                person = self._read(path)
        except SecretError:  # it was changed, and its key is lost
            return None
        finally:
            fresh.unlink(missing_ok=True)
        return (person, path) if person is not None else None

    def _read(self, path: Path) -> Person | None:
        """None when it is gone. Raises: SecretError when its key can't be opened."""
        try:
            said: Any = orjson.loads(path.read_bytes())
            pseudonym, tenant = str(said["person"]), str(said["tenant"])
            sealed = base64.b64decode(said["key"], validate=True)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise _Torn(f"{path} is no person's file; it was changed, or torn by a crash") from None
        return Person(
            pseudonym, KeyRing(self._ids.ring_for(sealed).unseal(sealed, _context(pseudonym))), tenant
        )


def people_path(sink: Path) -> Path:
    """The folder of a sink's people."""
    return sink.with_suffix(".people")


def _nobody(tenant: str) -> Person:
    return Person(f"p:{os.urandom(8).hex()}", KeyRing(os.urandom(32)), tenant)


def _context(pseudonym: str) -> str:
    return f"audit:person:{pseudonym}"


def _destroy(path: Path) -> None:
    """Overwrite, sync, remove, and sync the folder: a key that is gone must not come back after a crash.

    What a file system or a disk keeps of old blocks (snapshots, journals of data, flash) is out of reach; the key in
    the file is sealed, so that those are worth nothing without LLMSHIELD_SECRET_KEY.
    """
    size = path.stat().st_size
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, os.urandom(size))
        os.fsync(fd)
    finally:
        os.close(fd)
    path.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
