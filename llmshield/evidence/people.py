"""The people that records are about: a name of no meaning for each, and a key that can be destroyed.

A person is who a call names as its `user`, within a tenant. The records know a random pseudonym; what is kept of
their texts is sealed with a random key of their own. Both stand in one small file (`audit.people/ab/<hash>.json`,
0600, key and names sealed under the vault's key, or under the sink's where there is no vault). Erasing a person is
destroying that file: the chain stays as it is, and what it holds of them can be read and told together by nobody.

A call that was under way while somebody was erased makes no file anew: it is nobody's (`erasures.py`). Which keys files
are sealed under stands beside them (`_marks.py`): without one of them nobody is told that a person is not there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llmshield.errors import SecretError
from llmshield.evidence._marks import Marks, sync_folder
from llmshield.evidence.erasures import Erasures
from llmshield.evidence.identifiers import Identifiers
from llmshield.sealing import KeyRing

LOOK_S = 1.0
"""How soon a process notices that another one has erased a person."""
_KNOWN = 10_000
_TURNS = 10
_LONGEST_NAME = 1024
"""Characters of a user's name that is kept, sealed, so that it can be found under a new master key."""
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
    born: int = 0
    """Erasures that there had been when the file was made."""
    user: str | None = None
    """None in files of older versions, and for very long names."""


class People:
    """Finds and makes people beside one sink; one per process. For one thread at a time."""

    def __init__(self, sink: Path | None, identifiers: Identifiers) -> None:
        self._folder = people_path(sink) if sink is not None else None
        self._marks = Marks(self._folder) if self._folder is not None else None
        self._ids = identifiers
        self._erasures = Erasures()
        self._known: dict[tuple[str, str], tuple[Person, Path, float]] = {}
        self._second, self._made = 0, 0

    def look(self) -> None:
        """Ask how many erasures there were; about once a second, and before people are asked for. Raises: OSError."""
        if self._marks is not None and self._erasures.note(self._marks.erasures()):
            self._known.clear()

    def of(self, tenant: str, user: str, began: float | None = None) -> Person:
        """Who this is, made at the first sight of them. `began`: when the call did (`clock.monotonic()`); who was
        erased since is nobody, for this call. Raises: OSError.
        """
        self.look()
        known = self._erasures.count if began is None else self._erasures.known_at(began)
        now = time.monotonic()
        held = self._known.get((tenant, user))
        if held is None or (now - held[2] >= LOOK_S and not held[1].exists()):
            if self._folder is None:
                return _nobody(tenant)
            found = self._find(tenant, user)
            if found is None and known == self._erasures.count and self._room(now):
                found = self._make(tenant, user)
            if found is None:
                return _nobody(tenant)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            held = self._known[tenant, user] = (*found, now)
        elif now - held[2] >= LOOK_S:
            held = self._known[tenant, user] = (*held[:2], now)
        return held[0] if held[0].born <= known else _nobody(tenant)

    def find(self, user: str, tenant: str | None = None) -> list[Person]:
        """All that have this name, in one tenant or in every.

        Raises: OSError; SecretError, also when there may be people under a key that is not here.
        """
        self._check_keys()
        found = {
            person.pseudonym: person
            for path in self._files(user)
            if (person := self._read(path)) is not None and _is(person, user, tenant)
        }
        return list(found.values())

    def all(self) -> Iterator[Person]:
        """Everybody. Raises: OSError, SecretError."""
        for path in self._all_files():
            person = self._read(path)
            if person is not None:
                yield person

    def erase(self, user: str, tenant: str | None = None) -> list[Person]:
        """Destroy the keys of all that have this name: overwritten, synced, removed; and count it, though there be none.

        Raises: OSError; SecretError, also when there may be people under a key that is not here.
        """
        self._check_keys()
        if self._marks is None:
            return []
        self._marks.count_erasure()
        gone: dict[str, Person] = {}
        for _ in range(_TURNS):  # a file that was being sealed anew at this moment stands elsewhere now
            found = [
                each for path in self._files(user) if (each := self._erase_at(path, user, tenant)) is not None
            ]
            if not found:
                break
            gone |= {person.pseudonym: person for person in found}
        self._known.clear()
        return list(gone.values())

    def reseal(self) -> tuple[int, int]:
        """Seal every person's file anew, under the key that seals now: how many, and how many can't be found without
        the older key, since their names are not in them (files of older versions).

        Raises: OSError, SecretError.
        """
        assert self._marks is not None
        done = left = 0
        current = self._ids.ring
        older = bool(self._noted_keys() - {current.id})
        self._marks.note_key(current.id)
        for path in self._all_files():
            said = self._said(path)
            person = self._read(path)
            if said is None or person is None:
                continue
            left += older and person.user is None
            new = self._path(person.tenant, person.user) if person.user is not None else path
            if new == path and current.is_current(base64.b64decode(said["key"])):
                continue
            done += self._move(path, new, person)
        self._known.clear()
        if not left:
            self._marks.replace_keys([current.id])
        return done, left

    def _room(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._made = int(now), 0
        return self._made < _NEW_A_SECOND

    def _check_keys(self) -> None:
        """Raises: SecretError when there may be people whose key is not here: they could not be found."""
        missing = self._noted_keys() - {id for ring in self._ids.rings for id in ring.ids}
        if missing:
            raise SecretError(
                f"people in {self._folder} are found under the key {' and '.join(sorted(missing))}, which is not here; put"
                " that key into LLMSHIELD_PREVIOUS_KEYS"
            )

    def _noted_keys(self) -> set[str]:
        """Ids of all keys under which there may be people; of a folder of an older version those in its files."""
        if self._marks is None or self._folder is None or not self._folder.is_dir():
            return set()
        ids = self._marks.keys()
        if ids is None:
            ids = set()
            for path in self._all_files():
                with contextlib.suppress(SecretError):
                    said = self._said(path)
                    ids |= {base64.b64decode(said["key"])[:6].hex()} if said is not None else set()
            self._marks.replace_keys(ids)
        return ids

    def _names(self, user: str) -> list[str]:
        return [each.removeprefix("hmac:") for each in self._ids.spellings(f"user\0{user}")]

    def _files(self, user: str) -> list[Path]:
        if self._folder is None:
            return []
        found = [
            path for name in self._names(user) for path in (self._folder / name[:2]).glob(f"{name}-*.json")
        ]
        return sorted(found)

    def _all_files(self) -> list[Path]:
        return (
            sorted(self._folder.glob("*/*.json"))
            if self._folder is not None and self._folder.is_dir()
            else []
        )

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
                if person is not None and _is(person, user, tenant):
                    return person, path
        return None

    def _make(self, tenant: str, user: str) -> tuple[Person, Path] | None:
        """A new file; of several processes that make it at once, the first has made it."""
        assert self._marks is not None
        self._made += 1
        path = self._path(tenant, user)
        if not self._marks.is_noted(self._ids.ring.id):
            self._noted_keys()
            self._marks.note_key(self._ids.ring.id)
        key, pseudonym = os.urandom(32), f"p:{os.urandom(8).hex()}"
        fresh = self._written(path, pseudonym, key, tenant[:256], user, self._erasures.count)
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
        return (person, path) if person is not None and _is(person, user, tenant) else None

    def _written(
        self, path: Path, pseudonym: str, key: bytes, tenant: str, user: str | None, born: int
    ) -> Path:
        """A person's file beside the place that it is for."""
        ring = self._ids.ring
        said: dict[str, Any] = {
            "person": pseudonym,
            "tenant": tenant,
            "key": base64.b64encode(ring.seal(key, _context(pseudonym))).decode(),
            "born": born,
        }
        if user is not None and len(user) <= _LONGEST_NAME:
            who = ring.seal(json.dumps([tenant, user]).encode(), _who_context(pseudonym))
            said["who"] = base64.b64encode(who).decode()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, orjson.dumps(said))
            os.fsync(fd)
        finally:
            os.close(fd)
        return fresh

    def _move(self, path: Path, new: Path, person: Person) -> bool:
        """Seal a person's file anew, at its new place. Somebody who is erased meanwhile stays erased: whoever removes
        the old file decides, and it can be removed once only."""
        said = self._said(path)
        if said is None:
            return False
        sealed = base64.b64decode(said["key"])
        key = self._ids.ring_for(sealed).unseal(sealed, _context(person.pseudonym))
        if new == path:
            return self._overwrite(path, said, key)
        fresh = self._written(new, person.pseudonym, key, person.tenant, person.user, person.born)
        try:
            with contextlib.suppress(
                FileExistsError
            ):  # begun before, or made by a process without the older key
                os.link(fresh, new)
        finally:
            fresh.unlink(missing_ok=True)
        try:
            _destroy(path)
        except FileNotFoundError:  # erased at this moment
            with contextlib.suppress(FileNotFoundError):
                _destroy(new)
            return False
        return True

    def _overwrite(self, path: Path, said: dict[str, Any], key: bytes) -> bool:
        """The same file with another sealed key, which is as long: never made again where it was erased."""
        sealed = self._ids.ring.seal(key, _context(said["person"]))
        old, new = said["key"].encode(), base64.b64encode(sealed)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            os.pwrite(fd, os.pread(fd, 2**16, 0).replace(old, new), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        return True

    def _erase_at(self, path: Path, user: str, tenant: str | None) -> Person | None:
        """Destroy this file, if it is of this person."""
        try:
            person = self._read(path)
        except SecretError:  # half erased before, or of a key that is lost: nobody can use it
            _destroy(path)
            return None
        if person is None or not _is(person, user, tenant):
            return None
        _destroy(path)
        return person

    def _said(self, path: Path) -> dict[str, Any] | None:
        """What is in a file; None when it is gone. Raises: SecretError when it is no person's."""
        try:
            said: dict[str, Any] = orjson.loads(path.read_bytes())
            base64.b64decode(said["key"], validate=True)
            return {**said, "person": str(said["person"]), "tenant": str(said["tenant"])}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise _Torn(f"{path} is no person's file; it was changed, or torn by a crash") from None

    def _read(self, path: Path) -> Person | None:
        """None when it is gone. Raises: SecretError when its key can't be opened."""
        said = self._said(path)
        if said is None:
            return None
        pseudonym, tenant = said["person"], said["tenant"]
        sealed = base64.b64decode(said["key"])
        ring = KeyRing(self._ids.ring_for(sealed).unseal(sealed, _context(pseudonym)))
        user = None
        if "who" in said:
            try:
                who = base64.b64decode(said["who"], validate=True)
            except (ValueError, TypeError):
                raise _Torn(f"{path} is no person's file; it was changed, or torn by a crash") from None
            tenant, user = json.loads(self._ids.ring_for(who).unseal(who, _who_context(pseudonym)))
        born = said.get("born")
        return Person(pseudonym, ring, tenant, born if type(born) is int else 0, user)


def people_path(sink: Path) -> Path:
    """The folder of a sink's people."""
    return sink.with_suffix(".people")


def _nobody(tenant: str) -> Person:
    return Person(f"p:{os.urandom(8).hex()}", KeyRing(os.urandom(32)), tenant)


def _is(person: Person, user: str, tenant: str | None) -> bool:
    """Whether a file is that person's, and not another one's that was put in its place."""
    whose = person.tenant if tenant is None else tenant[:256]
    return person.tenant == whose and person.user in {None, user}


def _context(pseudonym: str) -> str:
    return f"audit:person:{pseudonym}"


def _who_context(pseudonym: str) -> str:
    return f"audit:person:{pseudonym}:who"


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
    sync_folder(path.parent)
