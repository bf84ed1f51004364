"""What is recorded of one call: shapes for the audit, filled in by whoever watched the call.

No field holds a prompt, a reply or a key. Values are what they were; the audit scrubs and bounds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


# No slots in these: orjson writes a dataclass with a __dict__ three times faster (4 against 12 us a record).
@dataclass
class AttemptRecord:
    """One try of one provider. `ms` from start to end, `cost_usd` an exact decimal or None, `prices` the list and its
    version (or `policy`, `assumed`) that priced it. `lost` are wishes of the client that a provider of another
    `dialect` was not told."""

    provider: str
    model: str
    outcome: str
    reason: str | None = None
    status: int | None = None
    ms: float = 0.0
    cost_usd: str | None = None
    prices: str | None = None
    dialect: str = ""
    lost: Sequence[str] = ()


@dataclass
class FindingRecord:
    """What a plugin saw, never the text: `place` is a JSON pointer or a channel."""

    type: str
    action: str
    count: int = 1
    score: float | None = None
    place: str = ""


@dataclass
class VerdictRecord:
    """What one plugin decided. `mode` is `enforce` or `monitor`."""

    plugin: str
    hook: str
    action: str
    mode: Literal["enforce", "monitor"] = "enforce"
    ms: float = 0.0
    findings: Sequence[FindingRecord] = ()
    error: str | None = None


@dataclass
class Record:
    """One call: who asked what, what was decided, who answered, what it cost. Times in milliseconds.

    `client` is the caller's address; the audit replaces it by its keyed hash. `unscanned` names content that no
    guard could see (`previous_response_id`, file ids). `cost_usd` is an exact decimal.
    """

    request_id: str
    policy: str
    mount: str = ""
    dialect: str = ""
    operation: str = ""
    path: str = ""
    tenant: str = ""
    tier: str | None = None
    key_id: str | None = None
    client: str = ""
    stream: bool = False
    model: str = ""
    provider: str | None = None
    answered_model: str | None = None
    attempts: Sequence[AttemptRecord] = ()
    verdicts: Sequence[VerdictRecord] = ()
    action: str = "allow"
    status: int = 0
    error: str | None = None
    finish: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: str | None = None
    latency_ms: float = 0.0
    first_byte_ms: float | None = None
    overhead_ms: float = 0.0
    unscanned: Sequence[str] = ()
    overrides: Sequence[str] = ()
    route_why: str = ""
    tags: dict[str, str] = field(default_factory=dict)
