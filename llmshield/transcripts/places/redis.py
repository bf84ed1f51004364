"""`redis://host:6379/0` (`rediss://` with TLS): any number of processes on any number of machines.

    PREFIX:{transcripts}:meta            hash   mark; erasures
    PREFIX:{transcripts}:names           set    of NAME, for all that have a key
    PREFIX:{transcripts}:key:NAME        hash   of TENANT: erasures at its birth, pseudonym, sealed key
    PREFIX:{transcripts}:people          set    of pseudonyms that have transcripts
    PREFIX:{transcripts}:of:PSEUDONYM    zset   of ids by their end
    PREFIX:{transcripts}:ends            zset   of PSEUDONYM, a blank, ID by their end
    PREFIX:{transcripts}:text:PSEUDONYM:ID      end, sealed transcript; Redis forgets it at its end by itself

A key that was deleted is still in Redis' files: in the log (AOF) as the command that wrote it, in the dump (RDB) as it
was. So `scrub` has both written anew and waits for it; where that is not allowed, or there are replicas with files of
their own, it says so. Needs the extra `[redis]` and Redis 5 or later. Clusters and sentinels are not asked: name the
primary.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from llmshield.errors import StoreError, StoreUnavailable
from llmshield.stores import StoreUrl
from llmshield.stores._trouble import redis_place, redis_trouble
from llmshield.transcripts.places import Entry, Owner, Place, Row

_PATIENCE_S = 5.0
_SCRUB_S = 120.0
_LOOK_S = 0.05
_AT_ONCE = 500

# KEYS: meta, names, key:NAME; ARGV: the erasures that are known, name, tenant, entry. nil: there were more.
_ADD = """
if (redis.call('HGET', KEYS[1], 'erasures') or '0') ~= ARGV[1] then return nil end
redis.call('HSETNX', KEYS[3], ARGV[3], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[2])
return redis.call('HGET', KEYS[3], ARGV[3])
"""
# KEYS: names, key:OLD, key:NEW; ARGV: old name, old tenant, old entry, new name, new tenant, new entry
_MOVE = """
if redis.call('HGET', KEYS[2], ARGV[2]) ~= ARGV[3] then return 0 end
local same = KEYS[2] == KEYS[3] and ARGV[2] == ARGV[5]
if not same and redis.call('HEXISTS', KEYS[3], ARGV[5]) == 1 then return 0 end
redis.call('HDEL', KEYS[2], ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('SREM', KEYS[1], ARGV[1]) end
redis.call('HSET', KEYS[3], ARGV[5], ARGV[6])
redis.call('SADD', KEYS[1], ARGV[4])
return 1
"""
# KEYS: meta, names, then key:NAME for each; ARGV: 1 to count it, then name and tenant for each
_DESTROY = """
if ARGV[1] == '1' then redis.call('HINCRBY', KEYS[1], 'erasures', 1) end
local gone = 0
for i = 3, #KEYS do
  local at = 2 * (i - 2)
  gone = gone + redis.call('HDEL', KEYS[i], ARGV[at + 1])
  if redis.call('EXISTS', KEYS[i]) == 0 then redis.call('SREM', KEYS[2], ARGV[at]) end
end
return gone
"""


class RedisPlace(Place):
    """One Redis. `?prefix=NAME` keeps several installations apart in one database."""

    options: ClassVar[frozenset[str]] = frozenset({"prefix"})

    def __init__(self, url: StoreUrl) -> None:
        super().__init__(url)
        prefix = url.options.get("prefix", "llmshield")
        if not prefix.replace("-", "").replace("_", "").isalnum():
            raise StoreError(f"prefix={prefix!r:.80}: letters, digits, hyphen and underscore only")
        self._prefix = f"{prefix}:{{transcripts}}:"
        self._address = url.text.partition("?")[0]
        self._place = redis_place(self._address)
        if self._place.endswith("?"):  # the library would say the password in its error
            raise StoreError(str(redis_trouble(self._place, ValueError())))
        self._redis: Any = None

    @property
    def name(self) -> str:
        return self._place

    def open(self, *, make: bool = True) -> bool:
        if self._redis is not None:
            return True
        try:
            from redis import Redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise StoreError(
                "transcripts in redis:// need the extra: pip install 'llmshield-sidecar[redis]'"
            ) from error
        redis: Any = Redis.from_url(
            self._address, socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S, retry=Retry(NoBackoff(), 1)
        )  # fmt: skip
        self._add, self._move, self._destroy = map(redis.register_script, (_ADD, _MOVE, _DESTROY))
        try:
            with self._step():
                redis.ping()
        except StoreUnavailable:
            redis.close()
            raise
        self._redis = redis
        return True

    def close(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            redis.close()

    def _at(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)

    @contextlib.contextmanager
    def _step(self) -> Iterator[Any]:
        """Raises: StoreUnavailable."""
        from redis.exceptions import RedisError

        try:
            yield self._redis
        except (RedisError, OSError) as error:
            raise redis_trouble(self._place, error, _PATIENCE_S) from error

    def _connected(self) -> Any:
        if self._redis is None:
            raise StoreUnavailable(f"{self._place} is not open")
        return self._redis

    # -- keys

    def mark(self, value: bytes | None) -> bytes | None:
        self._connected()
        with self._step() as redis:
            if value is not None:
                redis.hsetnx(self._at("meta"), "mark", value)
            found: bytes | None = redis.hget(self._at("meta"), "mark")
        return found

    def remark(self, value: bytes) -> None:
        self._connected()
        with self._step() as redis:
            redis.hset(self._at("meta"), "mark", value)

    def erasures(self) -> int:
        self._connected()
        with self._step() as redis:
            return int(redis.hget(self._at("meta"), "erasures") or 0)

    def find(self, owner: Owner) -> Entry | None:
        self._connected()
        with self._step() as redis:
            return _read(redis.hget(self._at("key", owner.name), owner.tenant))

    def add(self, owner: Owner, entry: Entry) -> Entry | None:
        self._connected()
        keys = [self._at("meta"), self._at("names"), self._at("key", owner.name)]
        with self._step():
            return _read(self._add(keys, [entry.born, *owner, _written(entry)]))

    def named(self, name: str) -> list[tuple[Owner, Entry]]:
        self._connected()
        with self._step() as redis:
            held = redis.hgetall(self._at("key", name))
        return sorted((Owner(name, tenant.decode()), _entry(value)) for tenant, value in held.items())

    def page(self, cursor: str = "") -> tuple[list[tuple[Owner, Entry]], str]:
        self._connected()
        with self._step() as redis:
            after, found = redis.sscan(self._at("names"), cursor=int(cursor or 0), count=_AT_ONCE)
            names = sorted({name.decode() for name in found})
            with redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hgetall(self._at("key", name))
                held = pipe.execute()
        some = [
            (Owner(name, tenant.decode()), _entry(value))
            for name, entries in zip(names, held, strict=True)
            for tenant, value in entries.items()
        ]
        return some, str(after) if after else ""

    def move(self, owner: Owner, old: Entry, new_owner: Owner, sealed: bytes) -> bool:
        self._connected()
        keys = [self._at("names"), self._at("key", owner.name), self._at("key", new_owner.name)]
        new = _written(old._replace(sealed=sealed))
        with self._step():
            return bool(self._move(keys, [*owner, _written(old), *new_owner, new]))

    def destroy(self, owners: Sequence[Owner], *, erasing: bool) -> int:
        self._connected()
        gone = 0
        for start in range(0, len(owners) or 1, _AT_ONCE):
            some = owners[start : start + _AT_ONCE]
            keys = [self._at("meta"), self._at("names"), *[self._at("key", owner.name) for owner in some]]
            said = [int(erasing and start == 0), *[part for owner in some for part in owner]]
            with self._step():
                gone += int(self._destroy(keys, said))
        return gone

    def scrub(self, gone: Sequence[bytes]) -> list[str]:
        self._connected()
        left = []
        try:
            with self._step() as redis:
                logs = bool(redis.info("persistence").get("aof_enabled"))
                replicas = redis.info("replication").get("connected_slaves", 0)
        except StoreUnavailable as error:  # INFO is kept from many users
            return [
                f"{self._place} does not tell which files it writes: in its log and its dump destroyed keys, sealed, stay"
                f" until it writes these anew; say BGREWRITEAOF and BGSAVE there ({error})"
            ]
        if logs:
            left += self._written_anew("BGREWRITEAOF", "aof_rewrite", "aof_last_bgrewrite_status")
        if self._dumps():
            left += self._written_anew("BGSAVE", "rdb_bgsave", "rdb_last_bgsave_status")
        if replicas:
            left.append(
                f"{replicas} replicas of {self._place} keep files of their own: say BGREWRITEAOF and BGSAVE there too"
            )
        return left

    def _dumps(self) -> bool:
        """Whether this Redis writes dumps, as far as it says."""
        try:
            with self._step() as redis:
                return bool(redis.config_get("save").get("save", ""))
        except StoreUnavailable:  # a managed one keeps CONFIG to itself, and makes dumps
            return True

    def _written_anew(self, command: str, work: str, status: str) -> list[str]:
        """Have a file written anew, and wait for it."""
        refused = f"{self._place} still has destroyed keys, sealed, in its files until it writes them anew; say {command} there"
        try:
            with self._step() as redis:
                deadline = time.monotonic() + _SCRUB_S
                asked = False
                while time.monotonic() < deadline:
                    found = redis.info("persistence")
                    busy = any(found.get(f"{each}_in_progress") for each in ("aof_rewrite", "rdb_bgsave"))
                    if not busy and not found.get("aof_rewrite_scheduled"):
                        if asked:
                            return [] if found.get(status) == "ok" else [f"{refused} ({command} failed)"]
                        redis.execute_command(command)
                        asked = True
                    time.sleep(_LOOK_S)
        except StoreUnavailable as error:
            return [f"{refused} ({error})"]
        return [f"{refused} ({command} took longer than {_SCRUB_S:g} s)"]

    # -- transcripts

    def append(self, rows: Sequence[Row]) -> None:
        self._connected()
        with self._step() as redis, redis.pipeline(transaction=True) as pipe:
            for row in rows:
                at = self._at("text", row.person, row.id)
                pipe.set(at, b"%d " % row.until_ms + row.sealed)
                pipe.pexpireat(at, row.until_ms)
                pipe.zadd(self._at("of", row.person), {row.id: row.until_ms})
                pipe.zadd(self._at("ends"), {f"{row.person} {row.id}": row.until_ms})
                pipe.sadd(self._at("people"), row.person)
            pipe.execute()

    def read(self, person: str, now_ms: int) -> Iterator[Row]:
        self._connected()
        with self._step() as redis:
            found = redis.zrangebyscore(self._at("of", person), f"({now_ms}", "+inf")
        ids = sorted(each.decode() for each in found)
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            with self._step() as redis:
                texts = redis.mget([self._at("text", person, each) for each in some])
            for each, text in zip(some, texts, strict=True):
                if text is not None:
                    until, _, sealed = text.partition(b" ")
                    yield Row(person, each, int(until), sealed)

    def people(self) -> set[str]:
        self._connected()
        with self._step() as redis:
            return {person.decode() for person in redis.smembers(self._at("people"))}

    def having(self, people: Sequence[str]) -> set[str]:
        self._connected()
        with self._step() as redis, redis.pipeline(transaction=False) as pipe:
            for person in people:
                pipe.exists(self._at("of", person))
            there = pipe.execute()
        return {person for person, has in zip(people, there, strict=True) if has}

    def remove(self, people: Sequence[str]) -> int:
        self._connected()
        gone = 0
        for person in people:
            with self._step() as redis:
                ids = [each.decode() for each in redis.zrange(self._at("of", person), 0, -1)]
                for start in range(0, len(ids), _AT_ONCE):
                    texts = [self._at("text", person, each) for each in ids[start : start + _AT_ONCE]]
                    gone += int(redis.delete(*texts))
                    redis.zrem(
                        self._at("ends"), *[f"{person} {each}" for each in ids[start : start + _AT_ONCE]]
                    )
                with redis.pipeline(transaction=True) as pipe:
                    pipe.delete(self._at("of", person))
                    pipe.srem(self._at("people"), person)
                    pipe.execute()
        return gone

    def sweep(self, now_ms: int) -> int:
        """Redis has forgotten the texts; their ids are left."""
        self._connected()
        gone = 0
        while True:
            with self._step() as redis:
                over = redis.zrangebyscore(self._at("ends"), "-inf", now_ms, start=0, num=_AT_ONCE)
                if not over:
                    return gone
                rows = [each.decode().split(" ", 1) for each in over]
                with redis.pipeline(transaction=True) as pipe:
                    for person, id in rows:
                        pipe.delete(self._at("text", person, id))
                        pipe.zrem(self._at("of", person), id)
                    pipe.zrem(self._at("ends"), *over)
                    pipe.execute()
                have = self.having(sorted({person for person, _ in rows}))
                for person in {person for person, _ in rows} - have:
                    redis.srem(self._at("people"), person)
            gone += len(rows)


def _written(entry: Entry) -> bytes:
    return f"{entry.born} {entry.pseudonym} ".encode() + entry.sealed


def _read(value: bytes | None) -> Entry | None:
    return _entry(value) if value is not None else None


def _entry(value: bytes) -> Entry:
    born, pseudonym, sealed = value.split(b" ", 2)
    return Entry(pseudonym.decode(), sealed, int(born))
