"""Telling the chain that somebody was erased: which pseudonyms, not whose."""

from __future__ import annotations

from typing import Any

from llmshield.audit import Audit
from llmshield.policy import Policy
from llmshield.records import other_record


def tell(policy: Policy, said: dict[str, Any]) -> str | None:
    """Write an `erased` record into the policy's log; why that could not be, if so. Nothing where there is no log."""
    log = Audit(policy.audit, policy.hash)
    log.start()
    log.record(other_record({"kind": "erased", **said}))
    log.close()
    return log.failure
