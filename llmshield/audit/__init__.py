"""The record of decisions: one for each call, written off the hot path into a hash-chained segment.

`record()` costs the event loop a queue append; a thread of its own chains and writes (`_writer.py`), into segments that
are rotated, anchored and pruned (`_places.py`). Order is kept, lines are whole, prompts and replies are never in it
unless `content` says so. When the disk refuses, records wait (up to `queue` of them). With `required` nobody is asked
and nothing is answered before its record is durable (`witness.py`): while it can't be, new calls are refused. Without,
what does not fit is counted, and the chain tells the count when it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from llmshield import clock
from llmshield.audit._contents import Mode, Said
from llmshield.audit._places import Options as PlaceOptions
from llmshield.audit._places import Places, sink_path
from llmshield.audit._writer import Item, Subject, Writer
from llmshield.errors import SecretError
from llmshield.evidence import EvidenceError, Segment
from llmshield.evidence.identifiers import Identifiers
from llmshield.evidence.people import People
from llmshield.records import other_record, quoted

__all__ = ["Audit", "Mode", "Said", "Settings", "Subject"]

PATIENCE_S = 5.0
"""How long a call waits for its record where one is required: a disk that takes longer is as good as full."""


class Settings(PlaceOptions, Protocol):
    """The `audit:` section of a policy: sink `file://path`, `stdout`, `stderr` or `none`."""

    @property
    def content(self) -> Mode: ...
    @property
    def required(self) -> bool: ...


class Audit:
    """Writes records. `enabled` is False for the sink `none`. `policy` is what every record names, as JSON."""

    def __init__(self, settings: Settings, policy_hash: str, *, queue: int = 10_000) -> None:
        self.required = settings.required and settings.sink != "none"
        self.enabled = settings.sink != "none"
        self.content: Mode = settings.content
        self.policy = quoted(policy_hash)
        self._settings = settings
        self._hash = policy_hash
        self._queue = queue
        self._writer: Writer | None = None
        self._ids: Identifiers | None = None

    def start(self) -> None:
        """Open the segment, write the head and start the thread. Raises: EvidenceError, which says what to do."""
        if not self.enabled:
            return
        sink = sink_path(self._settings.sink)
        try:
            self._ids = ids = Identifiers.of(sink)
        except SecretError as error:
            raise EvidenceError(f"the audit's identifiers can't be hashed: {error}") from error
        writer = Writer(
            self._settings, Places(self._settings, self._head), People(sink, ids), ids, self._queue
        )
        try:
            writer.start()
        except OSError as error:
            raise EvidenceError(
                f"the audit log {self._settings.sink!r} can't be written: {error.strerror or error}; choose another "
                "`audit.sink`, or make room there"
            ) from error
        self._writer = writer

    @property
    def written(self) -> int:
        """Records of this process that are in the file."""
        return self._writer.written if self._writer is not None else 0

    @property
    def dropped(self) -> int:
        """Records that were lost, told in the chain."""
        return self._writer.dropped if self._writer is not None else 0

    @property
    def ready(self) -> bool:
        """False when records are required and can't be written: then new calls must be refused (503)."""
        return not (self.required and self.failure is not None)

    @property
    def failure(self) -> str | None:
        """Why nothing can be written at the moment, for /readyz and /status."""
        return self._writer.failure if self._writer is not None else None

    @property
    def head(self) -> tuple[str, int, str] | None:
        """Segment id, number and hash of the last record: whoever keeps it elsewhere can prove the end."""
        out = self._writer.places._out if self._writer is not None else None
        return (out.id, out.seq, out.hash) if isinstance(out, Segment) else None

    def hashed(self, value: str) -> str:
        """An identifier as its keyed hash; empty for an empty one."""
        return self._ids.hash(value) if self._ids is not None and value else ""

    def record(self, body: str, subject: Subject | None = None) -> None:
        """Queue one record, a JSON object in ASCII (`records.py`): never waits, never raises."""
        if self._writer is not None:
            self._writer.put(Item(clock.now(), body, None, subject))

    async def record_and_wait(self, body: str, subject: Subject | None = None) -> None:
        """Queue one record and wait until it is durable, for calls that may not go unrecorded.

        Raises: StoreUnavailable when it can't be now; it is still kept and written when that ends.
        """
        if self._writer is not None:
            await self._writer.put_and_wait(Item(clock.now(), body, None, subject), PATIENCE_S)

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
        said = other_record(
            {"kind": "admin", "policy": self._hash, "actor": self.hashed(actor), "role": role, "action": action,
             "target": target, "outcome": outcome, "client": self.hashed(client), "detail": dict(detail or {})}
        )  # fmt: skip
        if self.required:
            await self.record_and_wait(said)
        else:
            self.record(said)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is queued, a last record and the anchor; let go of the file."""
        if self._writer is not None:
            self._writer.close(timeout_s)
            self._writer = None

    def _head(self) -> dict[str, Any]:
        assert self._ids is not None
        return {
            "policy": self._hash, "identifiers": self._ids.source, "content": self.content, "required": self.required,
        }  # fmt: skip
