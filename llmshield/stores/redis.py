"""`redis://host:6379/0` (`rediss://` with TLS): any number of processes on any number of machines.

Every step is one Lua script on one connection per process (`_redis_wire`): what callers ask in one turn of the loop
leaves in one write, and no caller waits for a connection.

A Redis that does not answer costs 50 ms, once: while its answer is outstanding, every other step fails at once.
The connection is given up after a second and a new one tried, so that calls go on within two seconds of a
recovery. A step whose answer was lost may have happened; every step of the book can be repeated with its id.

A Redis that comes back without its data, or with an older copy of it, is not a fresh budget: every script of the book
checks its epoch and its count first. Have Redis keep its data (`appendonly yes`): without, a restart loses what was
spent and closes the book, and the store says so in `warnings`.

Of a cluster any node may be named: all keys are in one slot (`{book}`), and the wire goes to the node that has it. A
slot that is moved, or a replica that takes over, is found when the old node says so, or is lost. Sentinels are not
asked: name the primary, or an address that leads to it.

Needs the extra `[redis]` and Redis 5 or later.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, cast

from llmshield.errors import StoreError, StoreUnavailable
from llmshield.stores import (
    Admission,
    Balance,
    Book,
    Entry,
    EntryKind,
    Grant,
    Labels,
    Line,
    Seat,
    Settled,
    Shortage,
    Standing,
    Store,
    StoreUrl,
    Window,
    book_lost,
    book_of,
)
from llmshield.stores._redis_resp import RedisError
from llmshield.stores._redis_scripts import SCRIPTS
from llmshield.stores._redis_wire import Wire
from llmshield.stores._trouble import redis_place, redis_trouble

_JOURNAL_KEPT_MS = 32 * 86_400_000
_EXPIRED = 200
"""How many holds are charged in one script: 5 ms."""
_READ_S = 5.0
"""Time for reading reports, which no call waits for."""


class RedisStore(Store):
    """State in one Redis. `?prefix=NAME` keeps several installations apart in one database."""

    options: ClassVar[frozenset[str]] = frozenset({"prefix"})
    bounded: ClassVar[bool] = True
    remote: ClassVar[bool] = True

    def __init__(self, url: StoreUrl) -> None:
        super().__init__(url)
        prefix = url.options.get("prefix", "llmshield")
        if not prefix.replace("-", "").replace("_", "").isalnum():
            raise StoreError(f"Store option prefix={prefix!r}: letters, digits, hyphen and underscore only")
        self._book = f"{prefix}:{{book}}:"
        self._book_key = self._book.encode()
        self._gate = f"{prefix}:{{book}}:gates:".encode()
        self._url = url.text.partition("?")[0]
        self._place = redis_place(self._url)
        if self._place.endswith("?"):  # the reader's library would say the password in its error
            raise StoreError(str(redis_trouble(self._place, ValueError())))
        self._wire = Wire(self._url, SCRIPTS)
        self._reader: Any = None
        self._reads = ""
        """The URL that the reader reads."""
        self._trim_ms = 0

    async def open(self) -> None:
        await self._read_at(self._url)
        await self._wire.open(_READ_S)
        await self._do("leave")  # nothing; in a cluster it leads to the node that has our keys
        await self._agree()
        self.unfit = await self._forgetful()
        self.warnings = await self._worries()

    async def close(self) -> None:
        await self._wire.close()
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.aclose()

    async def _read_at(self, url: str) -> None:
        """Have reports read from this node. Raises: StoreError."""
        if self._reader is not None and url == self._reads:
            return
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise StoreError(
                "A redis:// store needs the extra: pip install 'llmshield-sidecar[redis]'"
            ) from error
        before, self._reads = self._reader, url
        self._reader = Redis.from_url(
            url,
            socket_timeout=_READ_S,
            socket_connect_timeout=_READ_S,
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
        )
        if before is not None:
            await before.aclose()

    async def ping(self) -> None:
        await self._step("renew", 0)

    async def time(self) -> float | None:
        seconds, micros = await self._read("time")
        return float(seconds) + float(micros) / 1e6

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
        args: list[str | int] = [id, now_ms, until_ms, want, least, *labels]
        for line in lines:
            args += (
                f"{line.account}|{line.window}", "" if line.limit is None else line.limit, line.ends_ms, _since(line),
            )  # fmt: skip
        answer = await self._step("reserve", *args)
        if answer[0] == 1:
            self.seen = max(self.seen, answer[3])
            if answer[2] == b"1":
                return Grant(int(answer[1]), repeated=True)
            return Grant(int(answer[1]), left=int(answer[4]) if answer[4] else None, line=int(answer[5]))
        return Shortage(int(answer[1]), int(answer[2]), int(answer[3]), _window(answer[4]))

    async def settle(
        self, id: str, lines: Sequence[Line], actual: int, now_ms: int, labels: Labels,
        tokens_in: int = 0, tokens_out: int = 0,
    ) -> Settled:  # fmt: skip
        args: list[str | int] = [id, now_ms, actual, tokens_in, tokens_out, *labels]
        for line in lines:
            args += (f"{line.account}|{line.window}", line.ends_ms)
        charged, held, count = await self._step("settle", *args)
        self.seen = max(self.seen, count)
        return Settled(int(charged), int(held))

    async def release(self, id: str, lines: Sequence[Line]) -> int:
        held, count = await self._step("release", id, *[f"{line.account}|{line.window}" for line in lines])
        self.seen = max(self.seen, count)
        return int(held)

    async def renew(self, ids: Sequence[str], until_ms: int) -> int:
        return int(await self._step("renew", until_ms, *ids))

    async def expire(self, now_ms: int) -> int:
        total, part = 0, _EXPIRED
        while part == _EXPIRED:
            part, count = await self._step("expire", now_ms, _EXPIRED)
            self.seen = max(self.seen, count)
            total += part
        if now_ms >= self._trim_ms:
            self._trim_ms = now_ms + 3_600_000
            await self._read(
                "xtrim", self._book + "journal", minid=max(0, int(time.time() * 1000) - _JOURNAL_KEPT_MS)
            )
        return total

    async def standing(self, lines: Sequence[Line]) -> list[Standing]:
        out: list[Standing] = []
        for at in range(0, len(lines), 100):
            args = [
                part
                for line in lines[at : at + 100]
                for part in (f"{line.account}|{line.window}", _since(line))
            ]
            said = await self._step("standing", *args)
            out += [
                Standing(int(said[each]), int(said[each + 1]), _window(said[each + 2]))
                for each in range(0, len(said), 3)
            ]
        return out

    async def balances(self, prefix: str = "") -> list[Balance]:
        names = [name async for name in self._names() if name.startswith(prefix)]
        out: list[Balance] = []
        for at in range(0, len(names), 500):
            page = names[at : at + 500]
            await self._read_at(self._wire.url)
            pipe = self._reader.pipeline(transaction=False)
            for name in page:
                pipe.hmget(f"{self._book}acc:{name}", "s", "h", "r", "t")
            try:
                rows = await pipe.execute()
            except Exception as error:
                raise redis_trouble(self._place, error, _READ_S) from error
            for name, row in zip(page, rows, strict=True):
                account, _, window = name.rpartition("|")
                if row[0] is None:  # its time is over
                    await self._read("srem", self._book + "accounts", name)
                else:
                    out.append(Balance(account, window, *[int(figure) for figure in row]))
        return sorted(out)

    async def journal(self, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[Entry]:
        after = "-"
        while True:
            page = await self._read("xrange", self._book + "journal", after, "+", count=1000)
            for _, row in page:
                at_ms = int(row["at"])
                if at_ms >= since_ms and (until_ms is None or at_ms < until_ms):
                    yield _entry(row, at_ms)
            if len(page) < 1000:
                return
            after = f"({page[-1][0]}"

    async def holds(self) -> int:
        return int(await self._read("zcard", self._book + "due"))

    async def admit(
        self, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int = 1
    ) -> Admission:
        args: list[str | int] = [now_ms, cost, len(windows), *_flat(windows)]
        for seat in seats:
            args += (seat.key, seat.limit, seat.id, max(1, seat.until_ms - now_ms))
        full, wait, *figures = await self._do("admit", *args)
        return Admission(full, tuple(figures[::2]), tuple(figures[1::2]), wait)

    async def count(
        self, windows: Sequence[Window], now_ms: int, cost: int, at_ms: int | None = None
    ) -> None:
        await self._do("count", now_ms, cost, now_ms if at_ms is None else at_ms, *_flat(windows))

    async def leave(self, seats: Sequence[Seat]) -> None:
        args = [part for seat in seats for part in (seat.key, seat.id)]
        await self._do("leave", *args)

    async def sit(self, seats: Sequence[Seat]) -> None:
        if seats:
            args = [part for seat in seats for part in (seat.key, seat.id, seat.until_ms)]
            await self._do("sit", *args)

    async def put(self, shelf: str, key: str, value: bytes, until_ms: int = 0) -> None:
        await self._step("put", shelf, key, value, until_ms)

    async def put_once(self, shelf: str, key: str, value: bytes, until_ms: int, now_ms: int) -> bytes | None:
        there: bytes | None = await self._step("put_once", shelf, key, value, until_ms, now_ms)
        return there

    async def swap(
        self, shelf: str, key: str, old: bytes | None, new: bytes, until_ms: int, now_ms: int
    ) -> bytes | None:
        was = () if old is None else (old,)
        there: bytes | None = await self._step("swap", shelf, key, new, until_ms, now_ms, *was)
        return there

    async def look(self, shelf: str, key: str, now_ms: int) -> bytes | None:
        there: bytes | None = await self._step("look", shelf, key, now_ms)
        return there

    async def strike(self, shelf: str, key: str) -> bool:
        return bool(await self._step("strike", shelf, key))

    async def notes(self, shelf: str, now_ms: int) -> dict[str, bytes]:
        found = await self._read("execute_command", "HGETALL", f"{self._book}notes:{shelf}", NEVER_DECODE=[])
        await self.revision(shelf)  # a book that was lost before this was read is found out here
        notes: dict[str, bytes] = {}
        for key, note in found.items():
            ends, _, value = note.partition(b" ")
            if ends == b"0" or int(ends) > now_ms:
                notes[key.decode()] = value
        return notes

    async def revision(self, shelf: str) -> int:
        return int(await self._step("revision", shelf))

    async def _do(self, script: str, *args: str | int | bytes) -> Any:
        try:
            return await self._wire.ask(script, self._gate if script in _GATE_STEPS else self._book_key, args)
        except RedisError as error:
            raise redis_trouble(self._place, error, _READ_S) from error

    async def _step(self, script: str, *args: str | int | bytes) -> Any:
        """A step of the book or of the notes: in the book that we know, or in none."""
        for _ in range(3):
            try:
                return await self._wire.ask(script, self._book_key, (*args, self.epoch, self.seen))
            except RedisError as error:
                said: str = error.args[0]
                if said.startswith("LOST"):
                    raise book_lost("Redis") from error
                if not said.startswith("PAST "):
                    raise redis_trouble(self._place, error) from error
                self._adopt(said.removeprefix("PAST "))
        raise StoreUnavailable(f"Redis at {self._place}: the money book changes too fast")

    async def book(self) -> Book:
        epoch, count = await self._read("hmget", self._book + "book", "e", "n")
        doubted = await self._read("smembers", self._book + "book-doubted")
        self.unfit = await self._forgetful()
        return book_of(epoch or "", int(count or 0), sorted(doubted))

    async def begin(self, epoch: str) -> None:
        await self._do("begin", epoch)

    async def turn(self, epoch: str, past: Sequence[str] = (), *, wipe: bool = False) -> None:
        await self._do("turn", epoch, int(wipe), *past)

    async def _forgetful(self) -> str:
        """Whether this Redis drops keys when its memory is full: then what was spent is forgotten, and nobody sees it."""
        try:
            kept = await self._read("info", "memory")
        except StoreUnavailable:
            return ""  # not ours to ask (ACL)
        policy = str(kept.get("maxmemory_policy", "noeviction"))
        if policy == "noeviction" or not int(kept.get("maxmemory", 0)):
            return ""
        return (
            f"Redis at {self._place} drops keys when its memory is full, and with them what was spent (maxmemory-policy"
            f" {policy}). Set maxmemory-policy noeviction"
        )

    async def _worries(self) -> tuple[str, ...]:
        try:
            kept = await self._read("config_get", "appendonly")
        except StoreUnavailable:
            return ()  # not ours to ask (ACL, managed services)
        if kept.get("appendonly") == "no":
            return ("Redis keeps no log of its data (appendonly no): a restart of it loses the money book.",)
        return ()

    async def _read(self, command: str, *args: Any, **kwargs: Any) -> Any:
        if self._reader is None:
            raise StoreUnavailable("The Redis store is not open")
        await self._read_at(self._wire.url)
        try:
            return await getattr(self._reader, command)(*args, **kwargs)
        except Exception as error:
            raise redis_trouble(self._place, error, _READ_S) from error

    async def _names(self) -> AsyncIterator[str]:
        cursor, seen = 0, set[str]()
        while True:
            cursor, page = await self._read("sscan", self._book + "accounts", cursor, count=1000)
            for name in page:
                if name not in seen:
                    seen.add(name)
                    yield name
            if not cursor:
                return


_GATE_STEPS = frozenset({"admit", "count", "leave", "sit"})


def _flat(windows: Sequence[Window]) -> list[str | int]:
    return [
        part
        for window in windows
        for part in (f"{window.key}:{window.seconds}", window.limit, window.step_ms, window.seconds * 1000)
    ]


def _since(line: Line) -> str:
    return f"{line.account}|{line.since}" if line.since else ""


def _window(name: bytes) -> str:
    return name.decode().rpartition("|")[2]


def _entry(row: dict[str, str], at_ms: int) -> Entry:
    accounts = tuple(
        [(name.rpartition("|")[0], name.rpartition("|")[2]) for name in row["accounts"].split("\n")]
    )
    return Entry(
        row["id"], cast(EntryKind, row["kind"]), at_ms, int(row["amount"]), Labels(row["tenant"], row["provider"], row["model"]),
        int(row["in"]), int(row["out"]), accounts,
    )  # fmt: skip
