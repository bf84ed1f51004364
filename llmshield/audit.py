"""The record of decisions: one for each call, written off the hot path into a hash-chained segment.

`record()` costs the event loop a queue append; a thread of its own serialises, chains and writes batches every
20 ms. Order is kept, lines are whole, prompts and replies are never in it. When the disk refuses, records wait
(up to `queue` of them): with `required` the audit says that it is not `ready`, and the engine refuses new calls
until it is; without, what does not fit is counted, and the chain tells the count when it goes on.

A caller's address is personal data and not needed to tell callers apart: it is kept as a keyed hash (key from
LLMSHIELD_SECRET_KEY, so that it means the same in every process; without it a random one of this process).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from llmshield import __version__, clock
from llmshield.errors import ShieldError, StoreUnavailable
from llmshield.evidence import EvidenceError, Segment, Stream
from llmshield.logs import log, stamp
from llmshield.records import AttemptRecord, FindingRecord, Record, VerdictRecord
from llmshield.redact import one_line, redact

__all__ = ["AttemptRecord", "Audit", "FindingRecord", "Record", "Settings", "VerdictRecord"]

LONGEST_VALUE = 256
"""Characters of one value in a record; names beyond it are attacks."""

_EVERY_S = 0.02
_QUIET = 50
_LOOK_S = 1.0
_ITEMS = 200
_BATCH = 64
"""Records for each hold of the interpreter: 64 take about 0.4 ms, which no call notices."""


class Settings(Protocol):
    """The `audit:` section of a policy: sink `file://path`, `stdout`, `stderr` or `none`."""

    @property
    def sink(self) -> str: ...

    @property
    def content(self) -> str: ...

    @property
    def chain(self) -> str: ...

    @property
    def required(self) -> bool: ...


_Item = tuple[float, Record | dict[str, Any], "_Waiter | None"]


@dataclass(slots=True)
class _Waiter:
    """Somebody who goes on when the record is written."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]


class Audit:
    """Writes records. `written` and `dropped` count them; `enabled` is False for the sink `none`."""

    def __init__(self, settings: Settings, policy_hash: str, *, queue: int = 10_000) -> None:
        if settings.content != "none":
            raise ShieldError(f"audit.content: {settings.content!r} is not built; use `none`")
        self.required = settings.required
        self.enabled = settings.sink != "none"
        self.written = 0
        self.dropped = 0
        self._sink = settings.sink
        self._policy = policy_hash
        self._limit = queue
        self._queue: deque[_Item] = deque()
        self._pending: list[_Item] = []  # taken off the queue, not in the file yet
        self._told = 0  # drops that the chain knows of
        self._failed: str | None = None
        self._idle = True
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._out: Segment | Stream | None = None
        self._pseudonyms: dict[str, str] = {}
        secret = os.environ.get("LLMSHIELD_SECRET_KEY", "").encode()
        self._salt = hashlib.sha256(b"llmshield audit client" + (secret or os.urandom(32))).digest()

    def start(self) -> None:
        """Open the segment, write the head and start the thread. Raises: EvidenceError, which says what to do."""
        if not self.enabled:
            return
        self._out = self._open()
        self._queue.append((clock.now(), self._head(self._out), None))
        self._thread = threading.Thread(target=self._run, name="llmshield-audit", daemon=True)
        self._wake.set()
        self._thread.start()

    @property
    def ready(self) -> bool:
        """False when records are required and can't be written: then new calls must be refused (503)."""
        return not (self.required and self._failed is not None)

    @property
    def failure(self) -> str | None:
        """Why nothing can be written at the moment, for /readyz and /status."""
        return self._failed

    @property
    def head(self) -> tuple[str, int, str] | None:
        """Segment id, number and hash of the last record: whoever keeps it elsewhere can prove the end."""
        out = self._out
        return (out.id, out.seq, out.hash) if isinstance(out, Segment) else None

    def record(self, record: Record) -> None:
        """Queue one record: about a microsecond; never waits, never raises."""
        if not self.enabled:
            return
        if not self.required and len(self._queue) + len(self._pending) >= self._limit:
            self.dropped += 1
            return
        self._queue.append((clock.now(), record, None))
        if self._idle:
            self._idle = False  # one is enough
            self._wake.set()

    async def record_and_wait(self, record: Record) -> None:
        """Queue one record and wait until it is in the file, for calls that may not go unrecorded.

        Raises: StoreUnavailable when it can't be written now; it is still kept and written when that ends.
        """
        await self._put_and_wait(record)

    async def _put_and_wait(self, record: Record | dict[str, Any]) -> None:
        if not self.enabled:
            return
        if self._failed is not None:
            self._queue.append((clock.now(), record, None))
            raise StoreUnavailable(f"the audit log can't be written: {self._failed}")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._queue.append((clock.now(), record, _Waiter(loop, future)))
        self._wake.set()
        await future

    async def change(
        self,
        *,
        actor: str,
        role: str,
        action: str,
        target: str = "",
        outcome: Literal["begun", "done", "failed", "refused"] = "begun",
        client: str = "",
        detail: Mapping[str, str | int | bool | None] | None = None,
    ) -> None:
        """Write who changed what on the admin port (or a command line) into the chain, as a record of kind `admin`.

        Call it before the change, and make the change only when it has returned: with `required: true` it returns
        when the record is durable, else at once. When the change then fails, call it again with `outcome="failed"`;
        an attempt without the right to it is `refused`. `actor` names the person or key (it is kept as a keyed
        hash, as `client`, the caller's address, is), `role` is what they may do, `action` a constant such as
        `provider.configure`, `target` what was changed, `detail` plain values: names of fields, never a secret.
        `await runtime.audit.change(actor=key_id, role="operate", action="block.add", target="203.0.113.7/32")`

        Raises: StoreUnavailable when records are required and this one can't be written: then change nothing.
        """
        item: dict[str, Any] = {
            "kind": "admin", "policy": self._policy, "actor": self._pseudonym(actor), "role": role, "action": action,
            "target": target, "outcome": outcome, "client": self._pseudonym(client), "detail": dict(detail or {}),
        }  # fmt: skip
        if self.required:
            await self._put_and_wait(item)
        elif self.enabled:
            self._queue.append((clock.now(), item, None))
            self._wake.set()

    def reload(self, policy_hash: str) -> None:
        """Another policy is in force: a record of its own, from which on calls name the new hash."""
        self._policy = policy_hash
        if self.enabled:
            self._queue.append((clock.now(), {"kind": "policy", "policy": policy_hash}, None))
            self._wake.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is queued, a last record and the anchor; let go of the file."""
        if self._thread is None:
            return
        self._queue.append((clock.now(), {"kind": "end", "pid": os.getpid(), "dropped": self.dropped}, None))
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._thread = None

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        looked, quiet = clock.monotonic(), 0
        while not self._stop.is_set():
            if self._failed is not None:
                self._stop.wait(_LOOK_S)
            else:
                # Under traffic the thread comes by itself: waking it for each record would cost the loop five
                # times the record (25 us: a lock, and the fight for the interpreter that follows).
                if quiet >= _QUIET:
                    self._idle = True
                    if not self._queue:  # looked at after `_idle` was said, or a record could sleep
                        self._wake.wait(_LOOK_S)
                    self._idle = False
                self._wake.wait(_EVERY_S)
            self._wake.clear()
            quiet = 0 if self._queue else quiet + 1
            self._drain()
            if clock.monotonic() - looked >= _LOOK_S:
                looked = clock.monotonic()
                self._look_after()
        self._drain()
        self._look_after()
        if self._out is not None:
            self._out.close()

    def _drain(self) -> None:
        """Write all that is queued, batch by batch, until the sink refuses."""
        pending = self._pending
        if self.dropped > self._told:
            untold = self.dropped - self._told
            self._told += untold
            pending.append((clock.now(), {"kind": "dropped", "count": untold}, None))
        while self._queue:
            pending.append(self._queue.popleft())
        done = 0
        while done < len(pending):
            batch = pending[done : done + _BATCH]
            try:
                assert self._out is not None
                self._out.append([(stamp(at), self._body(item)) for at, item, _ in batch])
            except OSError as error:
                self._refused(error, pending[done:])
                return
            done += len(batch)
            self.written += len(batch)
            if self._failed is not None:
                self._failed = None
                log.warning("audit_recovered", waiting=len(pending) - done)
            self._tell(batch, None)
        self._pending = []

    def _refused(self, error: OSError, rest: list[_Item]) -> None:
        """Keep what could not be written for the next try; who waits for it is told now."""
        reason = error.strerror or type(error).__name__
        if self._failed is None:
            log.error("audit_failed", sink=self._sink, reason=reason, required=self.required)
        self._failed = reason
        self._pending = [(at, item, None) for at, item, _ in rest]
        self._tell(rest, StoreUnavailable(f"the audit log can't be written: {reason}"))

    @staticmethod
    def _tell(batch: Sequence[_Item], error: Exception | None) -> None:
        for _, _, waiter in batch:
            if waiter is not None:
                try:
                    waiter.loop.call_soon_threadsafe(_settle, waiter.future, error)
                except RuntimeError:  # its loop is closed: nobody waits any more
                    continue

    def _look_after(self) -> None:
        """Once a second: note the chain's end, and follow a file that was moved away (log rotation)."""
        out = self._out
        assert out is not None
        try:
            if not out.moved():
                out.anchor()
            else:
                self._out = self._open()
                out.close()
                self._queue.appendleft((clock.now(), self._head(self._out), None))
        except (OSError, EvidenceError) as error:
            log.warning("audit_look_failed", reason=str(error))

    def _open(self) -> Segment | Stream:
        if self._sink == "stdout":
            return Stream(sys.stdout.fileno())
        if self._sink == "stderr":
            return Stream(sys.stderr.fileno())
        return Segment.open(Path(self._sink.removeprefix("file://")))

    def _head(self, out: Segment | Stream) -> dict[str, Any]:
        return {
            "kind": "head",
            "segment": out.id,
            "pid": os.getpid(),
            "version": __version__,
            "policy": self._policy,
            "repaired_bytes": out.repaired,
            "others": out.others(),
        }

    def _body(self, item: Record | dict[str, Any]) -> bytes:
        """A record as JSON, in ASCII; every value is scrubbed and bounded if any of them is not plain."""
        if isinstance(item, Record):
            item.client = self._pseudonym(item.client)
            try:
                body = b'{"kind":"call",' + orjson.dumps(item)[1:]
                if len(body) < 4096 and body.isascii() and b"\\" not in body and _harmless(item):
                    return body
            except TypeError:  # a lone surrogate, or an integer beyond 64 bits
                pass
            item = {"kind": "call"} | asdict(item)
        return json.dumps(_scrub(item), separators=(",", ":")).encode()

    def _pseudonym(self, address: str) -> str:
        if not address:
            return ""
        known = self._pseudonyms.get(address)
        if known is None:
            if len(self._pseudonyms) >= 4096:
                self._pseudonyms.clear()
            known = "hmac:" + hashlib.blake2b(address.encode(), key=self._salt, digest_size=8).hexdigest()
            self._pseudonyms[address] = known
        return known


def _harmless(record: Record) -> bool:
    """No key in any value that a caller chose; `redact` knows the usual ones by heart."""
    said = [record.tenant, record.model, record.path, record.key_id, record.answered_model, record.tier]
    said += record.unscanned
    for tag in record.tags.items():
        said += tag
    for verdict in record.verdicts:
        for finding in verdict.findings:
            said.append(finding.place)
    return all(not text or redact(text) == text for text in said)


def _scrub(value: Any) -> Any:
    """The value without secrets and line breaks, bounded in length."""
    if isinstance(value, str):
        return one_line(redact(value), LONGEST_VALUE)
    if isinstance(value, dict):
        return {_scrub(str(name)): _scrub(item) for name, item in list(value.items())[:_ITEMS]}
    if isinstance(value, list | tuple):
        return [_scrub(item) for item in value[:_ITEMS]]
    return value


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    """On the loop's thread: let the waiting call go on; it may have been cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
