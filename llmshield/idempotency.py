"""Idempotency-Key: a call that is sent again with the same key and the same body is asked once.

The first one claims the key in the store, for all processes; its answer is kept there and given to those that come
after it, byte for byte. One that comes while the first is under way waits, for a bounded time; the first goes on when
its client has left. Keys belong to a tenant. A failure that may pass is not kept: whoever comes next asks again, and so it is after a crash.

An answer may hold what a provider never saw (restored values), so it is sealed with AES-256-GCM under a key that the
store can't derive: from the client's Idempotency-Key, its credential and the request itself (HKDF, RFC 5869). The
store sees hashes under that same secret, and how long the answer is.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib
import os
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from llmshield import clock
from llmshield.errors import CallError, StoreUnavailable
from llmshield.exchange import Client, Exchange
from llmshield.identity import ANONYMOUS, Caller
from llmshield.logs import log
from llmshield.policy.server import Idempotency
from llmshield.stores import Store

HEADER = "idempotency-key"
SHELF = "replies"
LEASE_S = 30.0
"""A claim that nobody renews for so long is a crashed process's: the next call asks again."""
LONGEST_KEY = 255
IN_MEMORY = 64 * 2**20
"""Bytes of answers that `memory://` keeps; the oldest go first."""
_OPEN, _KEPT, _GONE = b"o", b"k", b"g"
_MARK = 16
_NONCE = 12
_POLL_S = (0.02, 0.05, 0.1, 0.25)
_LASTING = frozenset({400, 404, 413, 415, 422})
"""A provider's refusals that the same body will meet again."""
_NOT_KEPT = frozenset(
    {"content-length", "connection", "date", "set-cookie", "x-llmshield-request-id", "x-llmshield-cost",
     "x-llmshield-overhead-ms", "x-llmshield-attempts", "x-llmshield-plugins", "x-llmshield-policy",
     "x-llmshield-action", "x-llmshield-budget-remaining"}
)  # fmt: skip
_NOT_KEPT_FAMILIES = ("retry-after", "ratelimit", "x-ratelimit-", "anthropic-ratelimit-")


class Kept(NamedTuple):
    """An answer that was given before."""

    status: int
    headers: dict[str, str]
    body: bytes


class Repeats:
    """Calls that are sent again, under one policy."""

    def __init__(self, settings: Idempotency, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._under_way: dict[str, asyncio.Event] = {}
        """Claims of this process, by name: those that wait for them need not ask the store."""
        self._leaving: set[asyncio.Future[None]] = set()
        self._held: deque[tuple[int, str, int]] = deque()
        self._held_bytes = 0

    async def claim(self, x: Exchange, query: str, body: bytes) -> Kept | None:
        """The answer, if it was given before. Else None, and the exchange is the one to give it: what it sends is
        kept at its end (`x.claim`).

        Raises: CallError `bad_request` for a key that is none (400), or for another body under it (422); `conflict` when
        the first call is still under way after the wait, or its answer was too large to be kept;
        `store_unavailable`.
        """
        if x.method != "POST":  # the others change nothing
            return None
        key = x.headers[HEADER]
        if not 0 < len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
            raise CallError(
                "bad_request", f"The Idempotency-Key must be 1 to {LONGEST_KEY} printable ASCII characters."
            )
        assert x.caller is not None
        name = _name(x.caller, key)
        secret = _secret(x, key, query, body)
        mark = _expand(secret, b"mark")[:_MARK]
        until = clock.monotonic() + self._settings.wait
        turn = 0
        while True:
            try:
                note = await self._put_once(name, mark)
            except StoreUnavailable:
                raise CallError(
                    "store_unavailable",
                    "The store is away, so nobody can tell whether this Idempotency-Key was used. Try again.",
                    retry_after_s=5,
                ) from None
            if note is None:
                x.claim = Claim(self, x, name, mark, secret)
                return None
            if note[1 : 1 + _MARK] != mark:
                raise CallError(
                    "bad_request",
                    "This Idempotency-Key was used with another request; use a new key for each request.",
                    status=422,
                    code="idempotency_key_reused",
                    headers={"x-should-retry": "false"},
                )
            if note[:1] == _KEPT:
                x.why = "repeated: this answer was kept"
                return await self._open(note, name, mark, secret)
            if note[:1] == _GONE:
                raise CallError(
                    "conflict",
                    "A call with this Idempotency-Key was answered before; its answer was too large to be kept.",
                    headers={"x-should-retry": "false"},
                )
            left = until - clock.monotonic()
            if left <= 0:
                raise CallError(
                    "conflict",
                    "A call with this Idempotency-Key is under way; try again later.",
                    retry_after_s=1,
                    headers={"x-should-retry": "true"},
                )
            await self._wait(name, min(left, _POLL_S[min(turn, len(_POLL_S) - 1)]), left)
            turn += 1

    async def _put_once(self, name: str, mark: bytes) -> bytes | None:
        """None: the key is claimed. A client that leaves at this very moment leaves no claim behind."""
        step = asyncio.ensure_future(self._store.put_once(SHELF, name, _OPEN + mark, _ms(LEASE_S), _ms()))
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            after = asyncio.ensure_future(self._give_back(step, name))
            self._leaving.add(after)
            after.add_done_callback(self._leaving.discard)
            raise

    async def _give_back(self, step: asyncio.Future[bytes | None], name: str) -> None:
        """Swallows a store that is away: the lease ends by itself."""
        try:
            if await step is None:
                await self._store.strike(SHELF, name)
        except StoreUnavailable:
            log.warning("claim_not_given_back")

    async def _wait(self, name: str, pause_s: float, left_s: float) -> None:
        """Until the claim is over where it is one of this process, else for a moment."""
        event = self._under_way.get(name)
        if event is None:
            await asyncio.sleep(pause_s)
            return
        try:
            async with asyncio.timeout(left_s):
                await event.wait()
        except TimeoutError:
            return  # the caller looks once more, and sees that the time is over

    async def _open(self, note: bytes, name: str, mark: bytes, secret: bytes) -> Kept:
        """The answer in a note. Raises: CallError for one that somebody has changed."""
        cipher = await _cipher(_expand(secret, b"seal"))
        at = 1 + _MARK
        try:
            plain = cipher.decrypt(note[at : at + _NONCE], note[at + _NONCE :], name.encode() + mark)
        except Exception:  # noqa: BLE001  InvalidTag and whatever the library says to cut bytes: it is not the answer
            log.error("kept_reply_unreadable", size=len(note))
            raise CallError("store_unavailable", "The kept answer can't be read.", status=500) from None
        size = int.from_bytes(plain[:4], "big")
        status, headers = orjson.loads(plain[4 : 4 + size])
        return Kept(status, {**headers, "idempotent-replayed": "true"}, plain[4 + size :])

    async def _keep(self, name: str, note: bytes) -> None:
        until_ms = _ms(self._settings.keep)
        if not self._store.shared:
            await self._make_room(until_ms, name, len(note))
        await self._store.put(SHELF, name, note, until_ms)

    async def _make_room(self, until_ms: int, name: str, size: int) -> None:
        """Memory is bounded: the oldest answers go."""
        now_ms = _ms()
        self._held.append((until_ms, name, size))
        self._held_bytes += size
        while self._held and (self._held_bytes > IN_MEMORY or self._held[0][0] <= now_ms):
            _, old, freed = self._held.popleft()
            self._held_bytes -= freed
            if old != name:
                await self._store.strike(SHELF, old)


class Claim:
    """The right, and the duty, to answer for a key. Records what the client is sent; renewed while it is held."""

    def __init__(self, repeats: Repeats, x: Exchange, name: str, mark: bytes, secret: bytes) -> None:
        self._repeats = repeats
        self._name = name
        self._mark = mark
        self._secret = secret
        self._done = asyncio.Event()
        self._closed = False
        repeats._under_way[name] = self._done
        self._renewing: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(LEASE_S / 3, self._renew)
        x.client.lingers = True  # one that has lost its connection will ask for the answer again
        self._recorder = x.client = _Recorder(x.client, repeats._settings.largest)

    def _renew(self) -> None:
        self._timer = self._loop.call_later(LEASE_S / 3, self._renew)
        if self._renewing is None or self._renewing.done():
            self._renewing = self._loop.create_task(self._put_off())

    async def _put_off(self) -> None:
        try:
            await self._repeats._store.put(SHELF, self._name, _OPEN + self._mark, _ms(LEASE_S))
        except StoreUnavailable:
            log.warning("claim_not_renewed")  # the lease has two more turns

    async def close(self, x: Exchange) -> None:
        """The exchange is over: keep its answer, or give the key back; once, however often it is told. What goes wrong
        is logged and not raised: the answer was given, and the lease ends by itself."""
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            if self._renewing is not None:
                await asyncio.wait({self._renewing})
            recorder = self._recorder
            if not recorder.ended or not _lasts(x, recorder.status):
                await self._repeats._store.strike(SHELF, self._name)
            elif recorder.parts is None:
                await self._repeats._keep(self._name, _GONE + self._mark)
            else:
                await self._repeats._keep(
                    self._name, await self._seal(recorder.status, recorder.headers, recorder.parts)
                )
            self._closed = True
        except Exception as error:  # noqa: BLE001
            self._closed = True
            log.exception("reply_not_kept", error, request_id=x.id)
        finally:
            self._repeats._under_way.pop(self._name, None)
            self._done.set()

    async def _seal(self, status: int, headers: Mapping[str, str], parts: list[bytes]) -> bytes:
        head = orjson.dumps([status, {name: value for name, value in headers.items() if _is_kept(name)}])
        plain = b"".join([len(head).to_bytes(4, "big"), head, *parts])
        nonce = os.urandom(_NONCE)
        cipher = await _cipher(_expand(self._secret, b"seal"))
        sealed: bytes = cipher.encrypt(nonce, plain, self._name.encode() + self._mark)
        return _KEPT + self._mark + nonce + sealed


class _Recorder:
    """A client that remembers what it was sent, up to a bound; `parts` None: it was more."""

    __slots__ = ("_client", "_room", "ended", "headers", "lingers", "parts", "started", "status")
    at_once = None  # all goes through `send`

    def __init__(self, client: Client, room: int) -> None:
        self._client = client
        self._room = room
        self.started = client.started
        self.lingers = True
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.parts: list[bytes] | None = []
        self.ended = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, dict(headers)
        try:
            await self._client.start(status, headers)
        finally:
            self.started = self._client.started  # a head that could not be recorded was not sent

    async def send(self, data: bytes) -> None:
        if self.parts is not None:
            self._room -= len(data)
            if self._room < 0:
                self.parts = None
            else:
                self.parts.append(data)
        await self._client.send(data)

    async def end(self) -> None:
        self.ended = True  # all of it is known, whether the client waits for the end or not
        await self._client.end()

    def cut(self) -> None:
        self._client.cut()


def _lasts(x: Exchange, status: int) -> bool:
    """Whether the same call would be answered so again: whole answers, and a provider's refusal of this very body."""
    if x.broken or x.degraded or x.cancelled:
        return False
    if 200 <= status < 300:
        return True
    return status in _LASTING and (x.error is None or x.error.kind == "upstream_error")


def _is_kept(name: str) -> bool:
    return name not in _NOT_KEPT and not name.startswith(_NOT_KEPT_FAMILIES)


def _name(caller: Caller, key: str) -> str:
    """Where the store keeps it: the tenant's own. Callers without a name share nothing but their address or key."""
    scope = [caller.tenant]
    if caller.tenant == ANONYMOUS:
        scope.append(caller.secret or caller.address)
    return hmac.digest(b"llmshield idempotency name", orjson.dumps([key, *scope]), "sha256").hex()


def _secret(x: Exchange, key: str, query: str, body: bytes) -> bytes:
    """HKDF-Extract over what the client alone has sent; its parts can't run into each other."""
    caller = x.caller
    assert caller is not None
    request = hashlib.sha256(orjson.dumps([x.method, x.path, query]) + body).hexdigest()
    said = orjson.dumps([key, caller.tenant, caller.secret or "", request])
    return hmac.digest(b"llmshield idempotency v1", said, "sha256")


def _expand(secret: bytes, info: bytes) -> bytes:
    """HKDF-Expand, 32 bytes: one block."""
    return hmac.digest(secret, info + b"\x01", "sha256")


async def _cipher(key: bytes) -> Any:
    """AES-256-GCM. The library is loaded when the first answer is kept, and off the loop: it takes 20 ms."""
    global _aesgcm
    if _aesgcm is None:
        module = await asyncio.to_thread(
            importlib.import_module, "cryptography.hazmat.primitives.ciphers.aead"
        )
        _aesgcm = module.AESGCM
    return _aesgcm(key)


_aesgcm: Any = None


def _ms(seconds: float = 0.0) -> int:
    """So many seconds from now, in ms."""
    return int((clock.now() + seconds) * 1000)
