"""The money book: who may spend how much in which window, over a store that several processes share.

A reservation is made before anything is sent and covers the worst case; when the attempt is over it is settled
with what it did cost, or released if nothing was sent. While an attempt is under way its hold is renewed, so
the lease is short: what a killed process held is charged in full a minute later, not lost and not kept.

Rule 1: amounts are integers of pico-USD. Rule 2: every step carries the reservation's id and may be repeated.
Rule 3: a store that does not answer is an error for whoever reserves; a settle is tried again until it is in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from llmshield import clock
from llmshield.bookkeeping import Bookkeeper, closed
from llmshield.budgets import Cap as Cap
from llmshield.budgets import budget, by_account, of_window, window_of
from llmshield.errors import BookLost, StoreError, StoreUnavailable
from llmshield.local_state import LocalState
from llmshield.logs import log
from llmshield.prices import usd
from llmshield.stores import MAX_AMOUNT, Balance, Grant, Labels, Line, Settled, Shortage, Standing, Store
from llmshield.windows import ClockWatch, is_rolling, stops_counting
from llmshield.windows import iso as iso

LEASE_S = 60.0
"""How long a hold outlives its last sign of life."""

_LEASE_MS = int(LEASE_S * 1000)
_MOST_KEPT = 10_000
"""Tenants whose accounts are kept ready."""

_TICK_S = 0.5
"""How often due holds and notes are looked for: an orphan is charged within its lease and this."""

_RENEW_S = LEASE_S / 3
_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between the tries of a settle; the last one is repeated while the process lives."""

_PROMPT_S = 0.5
"""An answer of the store's clock that took longer is none."""

EVER = "ever"
"""The window that never ends."""


@dataclass(slots=True)
class Reservation:
    """A hold of `amount` pico-USD for one attempt. `wanted` is what was asked for."""

    id: str
    amount: int
    wanted: int
    lines: tuple[Line, ...]
    labels: Labels
    caps: Sequence[Cap] = ()
    """What the lines after the first are for."""
    left: int | None = None
    """What the tightest of the caps still has, `line` its line; None where nothing is capped."""
    line: int = 0
    ended: bool = field(default=False, repr=False)


@dataclass(slots=True, frozen=True)
class Refusal:
    """The cap that has no room: what was spent and is held in its window, which ends at `resets_at` (seconds)."""

    cap: Cap
    spent: int
    held: int
    resets_at: float


class Ledger:
    """The book over one store. `start` and `close` belong to the process, the rest to each call."""

    def __init__(self, store: Store, state: LocalState | None = None) -> None:
        self._store = store
        self.books = Bookkeeper(store, state)
        self._open: dict[str, Reservation] = {}
        self._unsettled: set[asyncio.Task[Any]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._caps_of: list[Callable[[str], Sequence[Cap]]] = []
        self._caps_on: list[Callable[[str], Sequence[Cap]]] = []
        self._lately: dict[str, tuple[Sequence[Cap], float, float, tuple[Line, ...]]] = {}
        self._renew_at = 0.0
        self._watch = ClockWatch()
        self.available = True
        """False while the store does not answer to the keeper."""
        self.closed = ""
        """Why no money can be spent, as the keeper was told; empty while it can."""
        self.expired = 0
        """Holds that this process charged in full because nobody came back for them."""

    @property
    def instant(self) -> bool:
        """True: no step waits (`stores.at_once`)."""
        return self._store.instant

    async def start(self) -> None:
        """Open the store, charge what crashed processes left behind, and keep doing so.

        A store on another machine that is away, and a lost book, are told in `closed`, and tried again: money is
        refused meanwhile. Raises: StoreError for what will not get better by itself.
        """
        if self._keeper is None:
            try:
                await self._look()
            except StoreUnavailable as error:
                if not (self._store.remote or isinstance(error, BookLost)):
                    raise
                self._away(error)
            self._keeper = asyncio.create_task(self._keep(), name="llmshield-ledger")

    async def close(self) -> None:
        """Stop renewing; wait a moment for settles under way. What is still held expires by its lease."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        if self._unsettled:
            await asyncio.wait(self._unsettled, timeout=2.0)
        for task in tuple(self._unsettled):
            task.cancel()
        await self.books.close()

    def declare(
        self,
        caps_of: Callable[[str], Sequence[Cap]],
        caps_on: Callable[[str], Sequence[Cap]] | None = None,
    ) -> None:
        """Tell `usage` which caps hold for a tenant, and which on an account whose name begins with `cap=`."""
        self._caps_of.append(caps_of)
        if caps_on is not None:
            self._caps_on.append(caps_on)

    def forget(
        self,
        caps_of: Callable[[str], Sequence[Cap]],
        caps_on: Callable[[str], Sequence[Cap]] | None = None,
    ) -> None:
        """Take a `declare` back."""
        if caps_of in self._caps_of:
            self._caps_of.remove(caps_of)
        if caps_on is not None and caps_on in self._caps_on:
            self._caps_on.remove(caps_on)

    def caps_of(self, tenant: str) -> list[Cap]:
        """Every declared cap of a tenant, as the policy has it."""
        return [cap for caps_of in self._caps_of for cap in caps_of(tenant)]

    async def reserve(
        self, id: str, labels: Labels, caps: Sequence[Cap], want: int, least: int | None = None
    ) -> Reservation | Refusal:
        """Hold what one attempt may cost: `want` pico-USD, or as much as every cap has, `least` at the least.

        `id` names the attempt among all processes. The tenant's own account is always counted, capped or not.
        Raises: StoreUnavailable; then nothing may be sent.
        """
        now = clock.now()
        caps, lines = self._lines(labels.tenant, caps, now)
        want = min(want, MAX_AMOUNT)
        least = want if least is None else min(least, want)
        now_ms = int(now * 1000)
        try:
            grant = await self._store.reserve(
                id, lines, want, least, now_ms + int(LEASE_S * 1000), now_ms, labels
            )
        except BaseException as error:
            if isinstance(error, StoreUnavailable):
                self._away(error)
            # The answer is lost, or the caller went away: whether it was held nobody here knows. A hold that
            # is not found again within these tries is charged in full by its lease.
            self._later(self._until_done(lambda: self._store.release(id, lines), id, tries=4))
            raise
        return self._answered(grant, id, labels, caps, lines, want, now)

    def reserve_now(
        self, id: str, labels: Labels, caps: Sequence[Cap], want: int, least: int
    ) -> Reservation | Refusal:
        """`reserve` over an `instant` store, without a coroutine."""
        now = clock.now()
        caps, lines = self._lines(labels.tenant, caps, now)
        if want > MAX_AMOUNT:
            want = MAX_AMOUNT
        now_ms = int(now * 1000)
        grant = self._store.reserve_now(
            id, lines, want, least if least < want else want, now_ms + _LEASE_MS, now_ms, labels
        )
        if type(grant) is Grant and self.books.journal is None:
            reservation = self._open[id] = Reservation(
                id, grant.amount, want, lines, labels, caps, grant.left, grant.line
            )
            return reservation
        return self._answered(grant, id, labels, caps, lines, want, now)

    def _answered(
        self, grant: Grant | Shortage, id: str, labels: Labels, caps: Sequence[Cap], lines: tuple[Line, ...],
        want: int, now: float,
    ) -> Reservation | Refusal:  # fmt: skip
        """What a store's answer means."""
        if type(grant) is Grant:
            reservation = Reservation(id, grant.amount, want, lines, labels, caps, grant.left, grant.line)
            self._open[id] = reservation
            if self.books.journal is not None:
                self.books.reserved(id, int(now * 1000), grant.amount, lines, labels)
            return reservation
        assert isinstance(grant, Shortage)
        cap = caps[grant.line - 1]
        if not is_rolling(cap.period):
            resets_at = lines[grant.line].ends_ms / 1000
        else:
            resets_at = stops_counting(cap.period, grant.oldest) if grant.oldest else window_of(cap, now).ends
        return Refusal(cap, grant.spent, grant.held, resets_at)

    async def settle(
        self, reservation: Reservation, actual: int, tokens_in: int = 0, tokens_out: int = 0
    ) -> None:
        """Charge what the attempt did cost; safe to repeat. If the store is away it is tried until it is back."""
        if reservation.ended:
            return
        reservation.ended = True
        now_ms = _now_ms()
        actual = max(0, min(actual, MAX_AMOUNT))
        if self.books.journal is not None:
            self.books.journal.settled(
                reservation.id, now_ms, actual, tokens_in, tokens_out, reservation.lines, reservation.labels
            )

        async def charge() -> Settled:
            return await self._store.settle(
                reservation.id, reservation.lines, actual, now_ms, reservation.labels, tokens_in, tokens_out
            )

        try:
            await charge()
        except (StoreUnavailable, asyncio.CancelledError) as error:
            self._later(self._until_done(charge, reservation.id))
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._open.pop(reservation.id, None)

    def settle_now(
        self, reservation: Reservation, actual: int, tokens_in: int = 0, tokens_out: int = 0
    ) -> None:
        """`settle` over an `instant` store, without a coroutine."""
        if reservation.ended:
            return
        reservation.ended = True
        id, lines, labels = reservation.id, reservation.lines, reservation.labels
        now_ms, actual = _now_ms(), max(0, min(actual, MAX_AMOUNT))
        if self.books.journal is not None:
            self.books.journal.settled(id, now_ms, actual, tokens_in, tokens_out, lines, labels)
        self._store.settle_now(id, lines, actual, now_ms, labels, tokens_in, tokens_out)
        self._open.pop(id, None)

    async def release(self, reservation: Reservation) -> None:
        """Nothing was sent: free the hold; safe to repeat. If the store is away it is tried until it is back."""
        if reservation.ended:
            return
        reservation.ended = True
        if self.books.journal is not None:
            self.books.journal.released(reservation.id)

        async def free() -> int:
            return await self._store.release(reservation.id, reservation.lines)

        try:
            await free()
        except (StoreUnavailable, asyncio.CancelledError) as error:
            self._later(self._until_done(free, reservation.id))
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._open.pop(reservation.id, None)

    async def lock(self, tenant: str, id: str, until_ms: int) -> None:
        """Note for all processes that this tenant may spend nothing until then."""
        try:
            await self.books.lock(tenant, until_ms)
        except StoreUnavailable:
            self._later(self._until_done(lambda: self.books.lock(tenant, until_ms), id))

    async def locks(self) -> dict[str, float]:
        """Every locked tenant and the end of its lock in seconds since 1970; the last that is known of a store that is
        away. It is kept up to date: no need to ask again."""
        with contextlib.suppress(StoreUnavailable):
            await self.books.copy()
        return self.books.locked

    async def usage(self, tenants: Sequence[str] = ()) -> dict[str, Any]:
        """What every tenant has spent and holds, over all processes of the store; amounts as exact decimals.

        `tenants` are shown even if they never called. `spent_usd` counts since the store was made, each
        budget its own window. Raises: StoreUnavailable; also for a book that is lost: its figures are none.
        """
        try:
            await self._store.ping()
        except StoreUnavailable as error:
            if self.closed and not isinstance(error, BookLost):
                raise StoreUnavailable(self.closed) from error  # what the keeper found says more
            raise
        now = clock.now()
        accounts = by_account(await self._store.balances("tenant="))
        names = {name: _tenant(name) for name, found in accounts.items() if of_window(found, EVER)}
        names |= {tenant_account(name): name for name in tenants}
        out: dict[str, Any] = {
            "tenants": {name: self._usage_of(name, accounts, now) for _, name in sorted(names.items())}
        }
        if self._caps_on:
            others = by_account(await self._store.balances("cap="))
            out["caps"] = [
                budget(cap, found, now)
                for name, found in others.items()
                for caps_on in self._caps_on
                for cap in caps_on(name)
            ]
        return out

    def _usage_of(self, tenant: str, accounts: dict[str, list[Balance]], now: float) -> dict[str, Any]:
        account = tenant_account(tenant)
        found = accounts.get(account, [])
        total = (of_window(found, EVER) or [Balance(account, EVER, 0, 0, 0, 0)])[0]
        return {
            "spent_usd": usd(total.spent),
            "held_usd": usd(total.held),
            "budgets": [budget(cap, found, now) for cap in self.books.raised(self.caps_of(tenant), now)],
            "requests": total.requests,
            "tokens": total.tokens,
        }

    async def standing(self, lines: Sequence[Line]) -> list[Standing]:
        """What is spent and held of each of these lines of reservations. Raises: StoreUnavailable."""
        return await self._store.standing(lines)

    async def once(self, shelf: str, key: str, until: float) -> bool:
        """True for one caller among all processes, until then (seconds since 1970). Raises: StoreUnavailable."""
        return await self._store.put_once(shelf, key, b"1", int(until * 1000), _now_ms()) is None

    async def writable(self) -> None:
        """Write something: a store on a full disk can still be read. Raises: StoreUnavailable."""
        await self.once("ready", "", clock.now() + _TICK_S)

    def _lines(self, tenant: str, caps: Sequence[Cap], now: float) -> tuple[Sequence[Cap], tuple[Line, ...]]:
        """The caps as they stand, and the accounts of a reservation; those of a tenant's last call are kept while no
        window ends. Raises: StoreUnavailable where money is closed on this machine."""
        given = caps
        if caps:
            if self.books.failure:
                raise closed(self.books.failure)
            caps = self.books.raised(caps, now)
        known, apart = self._lately.get(tenant), self._watch.apart_s
        if known is not None and known[0] is caps and known[1] <= now < known[2] and not apart:
            return caps, known[3]
        if len(caps) > 1:
            caps = _distinct(caps)
        lines = (Line(tenant_account(tenant), EVER), *[self._line(cap, now) for cap in caps])
        if apart:  # what is spent now counts in the window of either clock
            more = {cap: line for cap in caps if (line := self._line(cap, now + apart)) not in lines}
            caps, lines = (*caps, *more), (*lines, *more.values())
        elif caps is given and not any(is_rolling(cap.period) for cap in caps):
            windows = [window_of(cap, now) for cap in caps]
            if len(self._lately) >= _MOST_KEPT:
                self._lately.clear()
            begins = max((each.begins for each in windows), default=0.0)
            ends = min((each.ends for each in windows), default=float("inf"))
            self._lately[tenant] = (caps, begins, ends, lines)
        return caps, lines

    def _line(self, cap: Cap, now: float) -> Line:
        """The account that a cap is for now; a rolling one minds all clocks that there are."""
        if is_rolling(cap.period):
            found = self._watch.window(cap.period, clock.now(), clock.monotonic())
        else:
            found = window_of(cap, now)
        return Line(cap.account, found.name, cap.limit, int(found.over * 1000), found.since)

    def _later(self, work: Any) -> None:
        """Do it without anybody waiting; a store that is away has its leases."""

        async def run() -> None:
            try:
                await work
            except StoreUnavailable:
                self.available = False

        task = asyncio.create_task(run())
        self._unsettled.add(task)
        task.add_done_callback(self._unsettled.discard)

    async def _until_done(self, step: Callable[[], Any], id: str, tries: int = 2**31) -> None:
        """Repeat a step until the store has taken it. Its hold is renewed meanwhile, so it is not expired."""
        for turn in range(tries):
            await asyncio.sleep(_RETRY_S[min(turn, len(_RETRY_S) - 1)])
            try:
                await step()
            except StoreUnavailable:
                self.available = False
                continue
            self._open.pop(id, None)
            return

    async def _keep(self) -> None:
        """Renew what is under way, charge what nobody came back for. A store that is away is told in
        `available`; reserving fails meanwhile, so nothing is lost by going on."""
        while True:
            await asyncio.sleep(_TICK_S)  # housekeeping keeps the machine's pace, whatever the clock says
            self._watch.look(clock.now(), clock.monotonic())
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  nobody else would renew; what is wrong, the next call is told
                self._away(error)

    async def _look(self) -> None:
        await self.books.look()
        await self._ask_time()
        if self._open and clock.monotonic() >= self._renew_at:
            await self._store.renew(tuple(self._open), _now_ms() + int(LEASE_S * 1000))
            self._renew_at = clock.monotonic() + _RENEW_S
        self.expired += await self._store.expire(_now_ms())
        if not self.available:
            await self.writable()
        closed = self.books.failure
        if closed and closed != self.closed:
            log.error("money_closed", reason=closed)
        self.available, self.closed = True, closed

    async def _ask_time(self) -> None:
        """Compare our clock with the store's, if it has one that we may ask (a Redis may have rules about that)."""
        before, began, told = self._watch.apart_s, clock.monotonic(), None
        with contextlib.suppress(StoreError):  # whether steps can be taken is for others to find out
            told = await self._store.time()
        if told is None or clock.monotonic() - began > _PROMPT_S:  # what came late tells how late it came
            return
        self._watch.told(told, clock.now(), clock.monotonic())
        apart = self._watch.apart_s
        if bool(apart) != bool(before):
            log.warning("clocks_apart", store_is_ahead_s=round(apart, 1))

    def _away(self, error: Exception) -> None:
        """Tell it once, until it is something else."""
        if str(error) != self.closed:
            log.error("money_closed", reason=str(error))
        self.available, self.closed = False, str(error) or type(error).__name__


def _distinct(caps: Sequence[Cap]) -> Sequence[Cap]:
    """Of caps on the same account and window the lowest: an account is touched once."""
    lowest: dict[tuple[str, str, str], Cap] = {}
    for cap in caps:
        known = lowest.setdefault((cap.account, cap.period, cap.zone), cap)
        if cap.limit < known.limit:
            lowest[cap.account, cap.period, cap.zone] = cap
    return caps if len(lowest) == len(caps) else tuple(lowest.values())


@lru_cache(maxsize=4096)
def tenant_account(tenant: str) -> str:
    """The account that all of a tenant's calls are counted on."""
    return account(tenant=tenant)


@lru_cache(maxsize=4096)
def _escape(value: str) -> str:
    return quote(value, safe="", errors="replace")  # a lone surrogate is no UTF-8


def account(**parts: str) -> str:
    """The name of an account: `tenant=acme,model=gpt-4o`. No two sets of parts share one."""
    return ",".join([f"{name}={_escape(value)}" for name, value in sorted(parts.items())]) or "all"


def _tenant(account: str) -> str:
    return unquote(account.partition("=")[2])


def _now_ms() -> int:
    return int(clock.now() * 1000)
