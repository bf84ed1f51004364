"""Stores: shared state, kept in memory, in one SQLite file or in Redis. One contract, one suite.

A store is one file: a module with one public subclass of `Store`; the scheme of `server.store` is the module's
name. Each method is ONE atomic step in the backend: it happens whole or not at all, among all processes that
share it. Nothing here knows a tenant, a price or a policy; `ledger` gives these figures their meaning.

The money book. An account is a name and a calendar window (`tenant=acme`, `day:2026-11-20`) with what was
spent and what is held. A hold is the promise of one attempt: it touches several accounts (its lines) at once.
Every hold ends in exactly one of these ways, told apart by its id, so that each step may be repeated:

    reserve ──> settle      the true cost is spent, the rest is free again; one journal entry
            ├─> release     nothing was sent: all of it is free again
            └─> expire      nobody came back within the lease (a crash): all of it is spent; one journal entry

A settle that comes after the expiry corrects it to the truth with a second journal entry. So at any instant
the entries of an account add up to what it spent, and spent + held is never less than what providers may bill.

Which book. A book has an epoch, made with it. Whoever has read one, or keeps one on its own disk, spends from no
other: every step names the epoch it knows, in the same round trip. A store that was flushed, replaced or restored
answers `BookLost`, to everybody, until `turn` gives it the epoch that follows.

The gates (rate limits and concurrency). A window counts in `STEPS` steps; a step leaves the count when it lies
wholly outside the window. So no stretch of `seconds` ever holds more than `limit`, and nothing is kept per
request. A seat is a place taken until it is left or its time is over (a crash).

The notes. Small facts that all processes share (client keys, revocations, blocks, replies for repeated calls), on
shelves. Each shelf has a revision that rises with every change by anybody: a process keeps a copy and asks for that
number only.

Rules: amounts are integers of pico-USD from 0 to `MAX_AMOUNT` (sums are cut there, never wrap); times are
integer milliseconds of `clock.now()`, given by the caller; whatever goes wrong is `StoreUnavailable`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar
from urllib.parse import parse_qs, urlsplit

from llmshield.errors import BookLost, StoreError

T = TypeVar("T")

MAX_AMOUNT = 2**62 - 1
"""Largest amount and largest balance: 4.6 million USD. Two of them still fit 64 bits, so no sum overflows."""

LOST = "lost"
REBUILDING = "rebuilding:"
"""What stands in the place of an epoch while a book is closed."""

STEPS = 60
"""Steps of a rate window: a hit counts for its window and at most one step (1/60) longer."""

EntryKind: TypeAlias = Literal["settle", "expire", "correct"]


class Line(NamedTuple):
    """One account that a hold touches. `limit` bounds spent + held there (None: only counted).

    `ends_ms` is when the window is over (0: never); a backend may forget the account long after that.

    A window whose name begins with a digit is a step of a rolling one: `24h:00000824333`, kind and number, in order
    as text. With `since`, the limit bounds the sum over all steps of this kind from that name on.
    """

    account: str
    window: str
    limit: int | None = None
    ends_ms: int = 0
    since: str = ""


class Labels(NamedTuple):
    """What the journal says about one attempt."""

    tenant: str
    provider: str
    model: str


@dataclass(slots=True)
class Grant:
    """`amount` is held now. `repeated`: this id was known already, nothing was held twice.

    `left` is what the limited line with the least room still has, `line` its index; None without a limit, and for
    what is repeated.
    """

    amount: int
    repeated: bool = False
    left: int | None = field(default=None, compare=False)
    line: int = field(default=0, compare=False)


class Shortage(NamedTuple):
    """Nothing was held: the line with this index has `spent` and `held` and no room for the least amount.

    `oldest` is the first step of a rolling window that counts something.
    """

    line: int
    spent: int
    held: int
    oldest: str = ""


class Standing(NamedTuple):
    """What counts for a line's limit; `oldest` as in `Shortage`."""

    spent: int
    held: int
    oldest: str = ""


class Settled(NamedTuple):
    """`charged` is what this step added to spent (negative: a correction down), `held` what had been held."""

    charged: int
    held: int


class Balance(NamedTuple):
    """One account as it stands. `requests` counts charges, `tokens` input and output together."""

    account: str
    window: str
    spent: int
    held: int
    requests: int
    tokens: int


class Entry(NamedTuple):
    """One line of the journal. Times in ms; `accounts` are `account|window` pairs the amount went to."""

    id: str
    kind: EntryKind
    at_ms: int
    amount: int
    labels: Labels
    tokens_in: int
    tokens_out: int
    accounts: tuple[tuple[str, str], ...]


class Book(NamedTuple):
    """Which money book a store holds.

    `open`: `epoch` is its name, and steps are taken. `empty`: it has none. `lost`: a process knows an epoch that this
    store does not (`doubted` has them). `rebuilding`: somebody is filling it, as `epoch`. `steps` rises with its
    changes, so that an older copy of it is told from it.
    """

    state: Literal["empty", "open", "lost", "rebuilding"]
    epoch: str = ""
    steps: int = 0
    doubted: tuple[str, ...] = ()


class Window(NamedTuple):
    """At most `limit` hits of `key` in any `seconds`."""

    key: str
    limit: int
    seconds: int

    @property
    def step_ms(self) -> int:
        """Length of one step, rounded up: sixty of them are never shorter than the window."""
        return -(-self.seconds * 1000 // STEPS)


class Seat(NamedTuple):
    """One of `limit` places at `key`, taken by `id` until `until_ms`."""

    key: str
    limit: int
    id: str
    until_ms: int


class Admission(NamedTuple):
    """What the gates said.

    `refused` is the index of the window that is full, counted over windows and then seats, or -1: all let
    it through. `used` counts each window's hits after this step; `resets_ms` is the time in ms until each
    window's oldest step leaves; `wait_ms` until the refused one has room.
    """

    refused: int
    used: tuple[int, ...]
    resets_ms: tuple[int, ...]
    wait_ms: int = 0


@dataclass(slots=True, frozen=True)
class StoreUrl:
    """`sqlite:///spend.db?sync=full` taken apart; three slashes and a relative path, four and an absolute one.

    `text` is the whole URL: it may hold a password, so it is in no message and no repr.
    """

    scheme: str
    path: str
    options: dict[str, str]
    text: str = field(repr=False)


class Store(ABC):
    """Shared state behind one URL. `options` are the names that may stand after `?` in it."""

    options: ClassVar[frozenset[str]] = frozenset()
    shared: ClassVar[bool] = True
    """False: other processes see nothing of it."""
    remote: ClassVar[bool] = False
    """True: it may be away for a while and come back, like anything behind a wire."""
    instant: ClassVar[bool] = False
    """True: no step ever waits, so that `at_once` may take it."""
    bounded: ClassVar[bool] = False
    """True: a step answers within 50 ms, or raises StoreUnavailable."""

    def __init__(self, url: StoreUrl) -> None:
        self.url = url
        self.warnings: tuple[str, ...] = ()
        """What an operator should know once the store is open, a sentence each."""
        self.unfit = ""
        """Why money can't be kept there as it is set up, and what to do; empty where it can."""
        self.epoch = ""
        """The book that every step is for. Set before `open` by whoever knows it; else the one that is there."""
        self.seen = 0
        """Steps that the book had at least (`Book.steps`)."""
        self.on_epoch: Callable[[str], None] | None = None
        """Called when `epoch` changes: with the first one, and when the book was rebuilt or reset."""

    @property
    def replaced(self) -> bool:
        """True: what is there now is not what was opened; close and open again."""
        return False

    @abstractmethod
    async def open(self) -> None:
        """Connect; create what is missing. Safe to repeat. Raises: StoreUnavailable, StoreError."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything. Safe to repeat."""

    @abstractmethod
    async def ping(self) -> None:
        """Raises: StoreUnavailable if a step could not be taken now."""

    async def time(self) -> float | None:
        """What the store's own clock says, in seconds since 1970; None: it has none. Raises: StoreUnavailable."""
        return None

    # -- the money book

    @abstractmethod
    async def reserve(
        self,
        id: str,
        lines: Sequence[Line],
        want: int,
        least: int,
        until_ms: int,
        now_ms: int,
        labels: Labels,
    ) -> Grant | Shortage:
        """Hold the largest amount from `least` to `want` that fits every line, or nothing.

        Expires a few due holds first. An id that is held answers its amount again; one that has ended
        answers `Grant(0, repeated=True)` and holds nothing.
        """

    @abstractmethod
    async def settle(
        self, id: str, lines: Sequence[Line], actual: int, now_ms: int, labels: Labels,
        tokens_in: int = 0, tokens_out: int = 0,
    ) -> Settled:  # fmt: skip
        """Spend `actual`, free the hold, write the entry. A lost hold is charged all the same."""

    @abstractmethod
    async def release(self, id: str, lines: Sequence[Line]) -> int:
        """Free the hold and charge nothing; the amount that was held, 0 if none was."""

    @abstractmethod
    async def renew(self, ids: Sequence[str], until_ms: int) -> int:
        """Put off the end of these leases; how many still exist."""

    @abstractmethod
    async def expire(self, now_ms: int) -> int:
        """Charge every hold whose lease is over in full; how many. Forgets notes that have ended."""

    @abstractmethod
    async def standing(self, lines: Sequence[Line]) -> list[Standing]:
        """How each of these lines stands, without a look at any other account."""

    @abstractmethod
    async def balances(self, prefix: str = "") -> list[Balance]:
        """Every account whose name starts with `prefix`, sorted by name and window."""

    @abstractmethod
    def journal(self, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[Entry]:
        """The entries of that time, oldest first; read in pages, beside the writers."""

    @abstractmethod
    async def holds(self) -> int:
        """How many holds are open."""

    # -- which book

    @abstractmethod
    async def book(self) -> Book:
        """Which book the store holds now, whatever `epoch` says. Raises: StoreUnavailable."""

    @abstractmethod
    async def begin(self, epoch: str) -> None:
        """Give an empty store this epoch; any other store keeps its own."""

    @abstractmethod
    async def turn(self, epoch: str, past: Sequence[str] = (), *, wipe: bool = False) -> None:
        """Make this the book's epoch; whoever knows one of `past`, or the one it had, goes on in it.

        `lost` and `rebuilding:EPOCH` close the book to all that do not name just that. `wipe` forgets every amount.
        """

    async def _agree(self) -> None:
        """Where no epoch is known: that of the store, or for an empty one, the first installation, a new one."""
        if not self.epoch:
            await self.begin(new_epoch())
            found = await self.book()
            if found.state == "open":
                self._adopt(found.epoch)

    def _adopt(self, epoch: str) -> None:
        self.epoch, self.seen = epoch, 0
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    # -- the gates

    @abstractmethod
    async def admit(
        self, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int = 1
    ) -> Admission:
        """Count `cost` hits in every window and take every seat; or, if one has no room, do neither.

        A seat that this id holds already is not taken twice.
        """

    def reserve_now(
        self,
        id: str,
        lines: Sequence[Line],
        want: int,
        least: int,
        until_ms: int,
        now_ms: int,
        labels: Labels,
    ) -> Grant | Shortage:
        """`reserve` of an `instant` store, without a coroutine."""
        return at_once(self.reserve(id, lines, want, least, until_ms, now_ms, labels))

    def settle_now(
        self, id: str, lines: Sequence[Line], actual: int, now_ms: int, labels: Labels,
        tokens_in: int = 0, tokens_out: int = 0,
    ) -> Settled:  # fmt: skip
        """`settle` of an `instant` store, without a coroutine."""
        return at_once(self.settle(id, lines, actual, now_ms, labels, tokens_in, tokens_out))

    def admit_now(
        self, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int = 1
    ) -> Admission:
        """`admit` of an `instant` store, without a coroutine."""
        return at_once(self.admit(windows, seats, now_ms, cost))

    @abstractmethod
    async def count(
        self, windows: Sequence[Window], now_ms: int, cost: int, at_ms: int | None = None
    ) -> None:
        """Add `cost` to every window whatever its limit, in the step that `at_ms` lies in (now without it).

        A negative cost takes back from that very step: nothing where it has left the window.
        """

    @abstractmethod
    async def leave(self, seats: Sequence[Seat]) -> None:
        """Give the seats back."""

    def leave_now(self, seats: Sequence[Seat]) -> None:
        """`leave` of an `instant` store, without a coroutine."""
        at_once(self.leave(seats))

    @abstractmethod
    async def sit(self, seats: Sequence[Seat]) -> None:
        """Keep these seats until their `until_ms`; one that was lost meanwhile is taken again."""

    # -- the notes: small facts that all processes share

    @abstractmethod
    async def put(self, shelf: str, key: str, value: bytes, until_ms: int = 0) -> None:
        """Write a note or replace it; it is there until `until_ms` (0: for ever)."""

    @abstractmethod
    async def put_once(self, shelf: str, key: str, value: bytes, until_ms: int, now_ms: int) -> bytes | None:
        """None: it is written. Otherwise nothing was, and this is what stands there already."""

    @abstractmethod
    async def swap(
        self, shelf: str, key: str, old: bytes | None, new: bytes, until_ms: int, now_ms: int
    ) -> bytes | None:
        """Write `new` where `old` stands (None: nothing that has not ended); what stands there after this step.

        Who gets `new` back has written it; a value that nobody else writes makes that certain.
        """

    @abstractmethod
    async def look(self, shelf: str, key: str, now_ms: int) -> bytes | None:
        """The note, if there is one that has not ended."""

    @abstractmethod
    async def strike(self, shelf: str, key: str) -> bool:
        """Remove a note; whether there was one."""

    @abstractmethod
    async def notes(self, shelf: str, now_ms: int) -> dict[str, bytes]:
        """Every note of the shelf that has not ended."""

    @abstractmethod
    async def revision(self, shelf: str) -> int:
        """A number that rises with every change of the shelf, also when `expire` forgets ended notes; 0: never used.

        It rises beyond what a lost store of the same name had, so an old copy is never taken for a fresh one.
        """


def at_once(step: Coroutine[Any, Any, T]) -> T:
    """The result of a step of an `instant` store, without a turn of the loop, a task or a timeout."""
    try:
        step.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    step.close()
    raise RuntimeError("a step of an instant store has waited")


def new_epoch() -> str:
    """A name for a book that begins anew: `BASE.1`. What is rebuilt from its journals is `BASE.2`, and so on."""
    return f"{secrets.token_hex(8)}.1"


def book_of(epoch: str, count: int, doubted: Sequence[str]) -> Book:
    """A book from what a store keeps."""
    if epoch.startswith(REBUILDING):
        return Book("rebuilding", epoch.removeprefix(REBUILDING), count, tuple(doubted))
    state: Literal["empty", "open", "lost"] = "lost" if epoch == LOST else "open" if epoch else "empty"
    return Book(state, epoch if state == "open" else "", count, tuple(doubted))


def book_lost(what: str) -> BookLost:
    """The error for a store whose book is not the one that was spent from."""
    return BookLost(
        f"The money book is lost: {what} no longer has what was spent (flushed, replaced, restored, or restarted"
        " without its data). Nothing is spent until `llmshield budget rebuild` has read it from the journals, or"
        " `llmshield budget reset --yes` begins a fresh budget."
    )


def parse_url(text: str) -> StoreUrl:
    """The parts of a store's URL. Raises: StoreError if it has no scheme."""
    parts = urlsplit(text)
    if not parts.scheme or "://" not in text:
        raise StoreError("A store is named like memory://, sqlite:///llmshield.db or redis://host:6379/0")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    path = parts.path[1:] if parts.path.startswith("/") else parts.path
    return StoreUrl(parts.scheme, path, options, text)


FROM_ENVIRONMENT = "env://"


def open_store(text: str) -> Store:
    """The store behind a URL, not yet opened (`await store.open()`). `env://NAME`: the URL is in that variable, with its
    password.

    Raises: StoreError for a scheme that no module in this room has, an option it does not know, or no such variable.
    """
    if text.startswith(FROM_ENVIRONMENT):
        name = text.removeprefix(FROM_ENVIRONMENT)
        text = os.environ.get(name, "").strip()
        if not text or text.startswith(FROM_ENVIRONMENT):
            raise StoreError(
                f"server.store: the environment variable {name!r} holds no store; export its URL there"
            )
    url = parse_url(text)
    name = "redis" if url.scheme == "rediss" else url.scheme
    cls = _find(name)
    unknown = sorted(url.options.keys() - cls.options)
    if unknown:
        known = ", ".join(sorted(cls.options)) or "none"
        raise StoreError(f"Store {url.scheme!r} has no option {unknown[0]!r} (known: {known})")
    return cls(url)


def _find(name: str) -> type[Store]:
    try:
        if not name.isidentifier() or name.startswith("_"):
            raise ModuleNotFoundError(name=f"{__name__}.{name}")
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        names = sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name[0] != "_")
        raise StoreError(f"No store is called {name!r}; there are {', '.join(names)}") from None
    for _, member in inspect.getmembers(module, inspect.isclass):
        if issubclass(member, Store) and member.__module__ == module.__name__ and member.__name__[0] != "_":
            return member
    raise StoreError(f"Module {module.__name__!r} holds no public Store")
