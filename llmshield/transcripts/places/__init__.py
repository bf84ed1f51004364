"""Places: where the keys of people and their transcripts are kept. One contract, one suite.

A place is one file: a module with one public subclass of `Place`; the scheme of its URL is the module's name. Keys and
transcripts may be in one place or in two: that of the keys is small, and the one that must not be in a backup.

What is in a place: hashes of names, sealed keys, sealed transcripts, and until when these are kept. A place can open
nothing of it. Erasures are counted: a key is made only by who knows of all erasures so far (`add`), so that nothing
which was said before an erasure can come back after it.

Methods wait, so they belong into a thread; an instance is for one thread at a time.
Rule: whatever goes wrong is `StoreUnavailable`, or `StoreError` for what waiting will not mend.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

from llmshield.errors import StoreError
from llmshield.stores import FROM_ENVIRONMENT, StoreUrl, parse_url


class Owner(NamedTuple):
    """Whose a key is: keyed hashes of a person's and of a tenant's name, 32 hexadecimal digits each."""

    name: str
    tenant: str


class Entry(NamedTuple):
    """A person's key: `sealed`, and known as `pseudonym`. `born`: erasures that there had been when it was made."""

    pseudonym: str
    sealed: bytes
    born: int


class Row(NamedTuple):
    """One transcript of a person (a pseudonym): the call's id, until when it is kept (ms since 1970), sealed."""

    person: str
    id: str
    until_ms: int
    sealed: bytes


class Place(ABC):
    """Where rows are kept, behind one URL. `options` are the names that may stand after `?` in it."""

    options: ClassVar[frozenset[str]] = frozenset()
    shared: ClassVar[bool] = True
    """False: other processes see nothing of it."""

    def __init__(self, url: StoreUrl) -> None:
        self.url = url

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in messages: without a password."""

    @abstractmethod
    def open(self, *, make: bool = True) -> bool:
        """Connect; safe to repeat. Without `make` nothing is created: False, where nothing is there.

        Raises: StoreUnavailable, StoreError.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything. Safe to repeat."""

    # -- keys

    @abstractmethod
    def mark(self, value: bytes | None) -> bytes | None:
        """What stands here to tell which master key this place is for; `value` is written if nothing does."""

    @abstractmethod
    def remark(self, value: bytes) -> None:
        """Write another mark over it."""

    @abstractmethod
    def erasures(self) -> int:
        """How often somebody was erased here."""

    @abstractmethod
    def find(self, owner: Owner) -> Entry | None:
        """This person's key, if there is one."""

    @abstractmethod
    def add(self, owner: Owner, entry: Entry) -> Entry | None:
        """Keep a new key; the one that is there, if another process was faster. None, and nothing is kept, if there
        were more erasures than `entry.born`."""

    @abstractmethod
    def named(self, name: str) -> list[tuple[Owner, Entry]]:
        """All people of this name, one for each tenant."""

    @abstractmethod
    def page(self, cursor: str = "") -> tuple[list[tuple[Owner, Entry]], str]:
        """Some hundred keys, and the cursor of the next page; empty behind the last one. What is there all the time is
        seen at least once."""

    def everybody(self) -> Iterator[tuple[Owner, Entry]]:
        """All keys."""
        cursor = ""
        while True:
            some, cursor = self.page(cursor)
            yield from some
            if not cursor:
                return

    @abstractmethod
    def move(self, owner: Owner, old: Entry, new_owner: Owner, sealed: bytes) -> bool:
        """Put a key that was sealed anew in the place of `old`; False if that is not there any more, or another one
        is at the new place."""

    @abstractmethod
    def destroy(self, owners: Sequence[Owner], *, erasing: bool) -> int:
        """Take these keys out; how many there were. `erasing`: it is counted, though there were none."""

    @abstractmethod
    def scrub(self, gone: Sequence[bytes]) -> list[str]:
        """After `destroy`: write anew what still has traces of what was taken out, and look for `gone` there.

        Returns what could not be done, as sentences that say what to do; safe to repeat.
        """

    # -- transcripts

    @abstractmethod
    def append(self, rows: Sequence[Row]) -> None:
        """Keep these, all or none; one that is there already is replaced."""

    @abstractmethod
    def read(self, person: str, now_ms: int) -> Iterator[Row]:
        """A person's transcripts that are not over, by their ids."""

    @abstractmethod
    def people(self) -> set[str]:
        """Pseudonyms of all that have a transcript here, over or not."""

    @abstractmethod
    def having(self, people: Sequence[str]) -> set[str]:
        """Which of these have a transcript here, over or not."""

    @abstractmethod
    def remove(self, people: Sequence[str]) -> int:
        """Take out all transcripts of these pseudonyms; how many there were."""

    @abstractmethod
    def sweep(self, now_ms: int) -> int:
        """Take out what is over; how many there were, as far as is known."""


def resolve(text: str) -> str:
    """The URL; of `env://NAME` the one in that variable, with its password. Raises: StoreError without one."""
    if not text.startswith(FROM_ENVIRONMENT):
        return text
    name = text.removeprefix(FROM_ENVIRONMENT)
    found = os.environ.get(name, "").strip()
    if not found or found.startswith(FROM_ENVIRONMENT):
        raise StoreError(f"the environment variable {name!r} holds no store; export its URL there")
    return found


def open_place(text: str) -> Place:
    """The place behind a URL, not yet opened.

    Raises: StoreError for a scheme that no module in this room has, or an option that it does not know.
    """
    url = parse_url(text)
    cls = _find("redis" if url.scheme == "rediss" else url.scheme)
    unknown = sorted(url.options.keys() - cls.options)
    if unknown:
        known = ", ".join(sorted(cls.options)) or "none"
        raise StoreError(f"transcripts in {url.scheme!r} have no option {unknown[0]!r} (known: {known})")
    return cls(url)


def _find(name: str) -> type[Place]:
    known = sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name[0] != "_")
    if name not in known:
        raise StoreError(f"found the store {name[:40]!r}, expected one of {', '.join(known)}")
    module = importlib.import_module(f"{__name__}.{name}")
    for _, member in inspect.getmembers(module, inspect.isclass):
        if issubclass(member, Place) and member.__module__ == module.__name__ and member.__name__[0] != "_":
            return member
    raise StoreError(f"Module {module.__name__!r} holds no public Place")
