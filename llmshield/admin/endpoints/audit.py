"""The record: find what was decided, and who changed what."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from llmshield import spending
from llmshield.admin.house import House
from llmshield.admin.problems import Flaw, Problem
from llmshield.admin.shapes import NamePart, Query, Shape
from llmshield.admin.table import Example, route
from llmshield.evidence import searching, segments
from llmshield.evidence.identifiers import Identifiers
from llmshield.windows import iso

_NEVER_SHOWN = frozenset({"content"})
"""What may hold texts of a call: `llmshield audit search --open` is for those who may read them."""

Term = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class AuditQuery(Query):
    """Which records."""

    kind: Literal["call", "admin", "any"] | None = Field(
        default=None,
        description="`call`: decisions; `admin`: changes on this port; both without it; `any`: all.",
    )
    tenant: Term | None = Field(default=None, description="Of this tenant.")
    key: Term | None = Field(
        default=None,
        description="By this client key's id, or this administrator (`key:NAME`, `token`, `jwt:NAME`).",
    )
    client: Term | None = Field(default=None, description="From this address.")
    model: Term | None = Field(default=None, description="That asked for this model, or were answered by it.")
    provider: NamePart | None = Field(default=None, description="That asked this provider.")
    action: Term | None = Field(
        default=None,
        description="`allow`, `redact`, `block`, ...; of changes `block.add`, `provider.configure`, ...",
    )
    plugin: Term | None = Field(
        default=None, description="In which this plugin spoke: `pii`, or `pii:redact`."
    )
    request_id: Term | None = Field(default=None, description="This one.")
    since: Annotated[str, StringConstraints(min_length=1, max_length=40)] = Field(
        default="24h", description="From then on: `2026-11-20`, `2026-11-20T14:30`, or `2h` (ago); UTC."
    )
    until: Annotated[str, StringConstraints(min_length=1, max_length=40)] | None = Field(
        default=None, description="Before then."
    )
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=100, description="At most so many, the newest."
    )


class Records(Shape):
    """What was found, the newest last."""

    records: tuple[dict[str, Any], ...] = Field(
        description="As they stand in the chain (docs/evidence.md), without texts. Addresses, keys and people are keyed hashes."
    )
    more: bool = Field(description="Whether there were older ones than `limit` leaves room for.")


@route("GET", "/v1/audit", role="read", timeout_s=60.0, example=Example(query="kind=admin&since=1h"))
async def search_audit(house: House, query: AuditQuery) -> Records:
    """Find records: what was decided about calls, and who changed what on this port.

    It reads the segments of this machine's sink, off the event loop. Texts are never shown.
    """
    sink = house.policy.audit.sink
    if not sink.startswith("file://"):
        raise Problem(
            "conflict", f"There is nothing to search: `audit.sink` is {sink!r:.40}, expected file://path."
        )
    wanted = searching.Query(
        tenant=query.tenant, model=query.model, provider=query.provider, action=query.action, plugin=query.plugin,
        request_id=query.request_id, since=_moment(query.since), until=_moment(query.until),
        kinds=None if query.kind == "any" else frozenset({query.kind} if query.kind else {"call", "admin"}),
    )  # fmt: skip
    stop = threading.Event()
    try:
        found, more = await asyncio.to_thread(
            _find, Path(sink.removeprefix("file://")), wanted, query.client, query.key, query.limit, stop
        )
    except OSError as error:
        raise Problem(
            "unavailable", f"The record can't be read: {error.strerror or type(error).__name__}."
        ) from None
    finally:
        stop.set()  # a thread can't be cancelled; it looks
    return Records(records=tuple(found), more=more)


def _find(
    sink: Path,
    wanted: searching.Query,
    client: str | None,
    key: str | None,
    limit: int,
    stop: threading.Event,
) -> tuple[list[dict[str, Any]], bool]:
    """The newest records and whether there are more. Raises: OSError, ShieldError."""
    paths = segments(sink)
    if paths and (client is not None or key is not None):
        ids = Identifiers.of(sink, make=False)
        wanted.clients = frozenset(ids.spellings(client)) if client is not None else None
        wanted.keys = frozenset(ids.spellings(key)) if key is not None else None
    newest: deque[dict[str, Any]] = deque(maxlen=limit)
    count = 0
    for each in searching.find(paths, wanted):
        if stop.is_set():
            break
        count += 1
        newest.append({name: value for name, value in each.record.items() if name not in _NEVER_SHOWN})
    return list(newest), count > limit


def _moment(text: str | None) -> str | None:
    """A time as records write it. Raises: Problem."""
    try:
        ms = spending.moment(text, "UTC")
        return iso(ms / 1000) if ms is not None else None
    except (spending.Misuse, ValueError, OverflowError) as error:
        message = str(error) if isinstance(error, spending.Misuse) else "expected a time after 1970"
        flaw = Flaw(place="query", at="since", message=message)
        raise Problem("invalid", message, errors=[flaw]) from None
