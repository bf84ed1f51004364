"""The control endpoint under /__sim__/, for tests in another process or another language."""

from __future__ import annotations

from typing import Any

import orjson

from llmshield.simulator.answer import scripted
from llmshield.simulator.plan import Plan
from llmshield.simulator.provider import Provider
from llmshield.simulator.record import Received
from llmshield.simulator.table import FAULTS


def as_control(provider: Provider, call: Received) -> Plan:
    """What a control request does and is answered.

    GET calls, DELETE calls; GET, PUT settings (directives and settings, as an object); POST script (a list of
    replies); POST reset; GET faults; GET bill; GET health.
    """
    what = call.path.removeprefix("/__sim__/").strip("/")
    body = call.json
    status = 200
    tree: Any = None
    try:
        match (call.method, what):
            case ("GET", "health"):
                tree = {"ok": True, "name": provider.name, "calls": len(provider.calls)}
            case ("GET", "calls"):
                since = int(call.params.get("since", 0))
                tree = [c.as_dict() for c in provider.calls if c.number > since]
            case ("DELETE", "calls"):
                provider.calls.clear()
                tree = {"ok": True}
            case ("GET", "settings"):
                tree = provider.options()
            case ("PUT" | "POST" | "PATCH", "settings"):
                provider.set(**_object(body))
                tree = provider.options()
            case ("POST", "script"):
                entries = body if isinstance(body, list) else [body]
                provider.script.extend([scripted(entry) for entry in entries])
                tree = {"waiting": len(provider.script)}
            case ("POST", "reset"):
                provider.reset()
                tree = {"ok": True}
            case ("GET", "faults"):
                tree = {name: fault.doc for name, fault in sorted(FAULTS.items())}
            case ("GET", "bill"):
                tree = provider.bill()
            case _:
                status, tree = (
                    404,
                    {"error": "there are: health, calls, settings, script, reset, faults, bill"},
                )
    except (ValueError, TypeError) as problem:
        status, tree = 400, {"error": str(problem)}
    return Plan(status, [("content-type", "application/json")], orjson.dumps(tree))


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ValueError("expected a JSON object of settings")
    return body
