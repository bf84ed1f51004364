"""Whether it runs, whether it can serve, and what it counted."""

from __future__ import annotations

from typing import Literal

import orjson
from pydantic import Field

from llmshield.admin.house import House
from llmshield.admin.shapes import Shape
from llmshield.admin.table import Example, Page, route


class Health(Shape):
    """Whether it runs."""

    status: Literal["ok", "unhealthy"]
    reason: str | None = Field(default=None, description="What is not up; only where it is `unhealthy`.")


class Readiness(Shape):
    """Whether calls can be served."""

    status: Literal["ready", "unready"]
    reason: str | None = Field(default=None, description="What is missing; only where it is `unready`.")


@route("GET", "/healthz", role=None, early=True, says={503: "It is `unhealthy`."}, example=Example())
async def healthz(house: House) -> Health | Page:
    """Tell that the process runs.

    It answers as soon as the port is open, whoever asks; an orchestrator restarts what does not answer. Under the
    transparent mount it says 503 until proxy, gateway and rules are up.
    """
    reason = house.runtime.health()
    return Health(status="ok") if reason is None else _down("unhealthy", reason)


@route("GET", "/readyz", role=None, early=True, says={503: "It is `unready`."}, example=Example())
async def readyz(house: House) -> Readiness | Page:
    """Tell whether calls can be served now.

    200 when detectors are warm, keys resolved and all that fails closed can be reached; else 503 with the reason.
    Whoever reaches the port may ask.
    """
    reason = await house.runtime.unready()
    if reason is None:
        return Readiness(status="ready")
    return _down("unready", reason)


def _down(status: str, reason: str) -> Page:
    body = orjson.dumps({"status": status, "reason": reason}, option=orjson.OPT_INDENT_2) + b"\n"
    return Page("application/json", body, 503)


@route(
    "GET", "/metrics", role="read", early=True, kinds={"text/plain": "Prometheus' text format 0.0.4."},
    example=Example(),
)  # fmt: skip
async def metrics(house: House) -> Page:
    """Give all counts of this process, for Prometheus.

    Rendered once a second at the most, off the event loop.
    """
    return Page("text/plain; version=0.0.4; charset=utf-8", await house.runtime.render_metrics())
