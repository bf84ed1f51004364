"""For authors of plugins: run one hook on one call, hold the clock still, ask a fake provider.

    from llmshield.testing import call, run_hook

    async def test_competitors_are_refused() -> None:
        seen = await run_hook(NoCompetitors(NoCompetitors.Settings(names=["Initech"])), "pre_request", call("Call Initech"))
        assert isinstance(seen.verdict, Block)

Nothing here is a mock: `call` reads a real body with the real dialect, `run_hook` runs the step that the engine
runs, `gateway` serves a policy on a real socket, and FakeProvider is the simulator.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from llmshield import clock
from llmshield.call import Attempt, Call, Channel, Finding, Reply
from llmshield.chain import Step, Took, Trail, run_step
from llmshield.channels import Channels, Stopped
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import parse_body
from llmshield.errors import CallError, PluginError, WireError
from llmshield.exchange import new_id
from llmshield.filtering import filters_of
from llmshield.hookspecs import HOOKS, Plugin
from llmshield.mounts.gateway import serve
from llmshield.policy import Policy, loads
from llmshield.policy.units import HostPort
from llmshield.simulator import Simulator as FakeProvider
from llmshield.traffic import Dialects

__all__ = [
    "FakeProvider", "FrozenClock", "HookRun", "Lent", "call", "filtered", "gateway", "policy", "read", "run_hook",
]  # fmt: skip

T = TypeVar("T")


class FrozenClock:
    """Time that moves only when told: `with FrozenClock(now) as time: time.advance(5)`. Seconds."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._before: clock.Clock | None = None

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Time goes by at once; other tasks get their turn."""
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Let time go by, on both clocks."""
        self._now += seconds
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock forth or back, as an operator does; the monotonic one does not notice."""
        self._now += seconds

    def __enter__(self) -> FrozenClock:
        self._before = clock.install(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._before is not None
        clock.install(self._before)


class Lent:
    """Resources for a plugin's `start`: `Lent(Policy=..., ...)` is not needed, give the things themselves."""

    def __init__(self, *things: object) -> None:
        self._things = things

    def get(self, kind: type[T]) -> T:
        """The first thing of this type. Raises: PluginError when there is none."""
        for thing in self._things:
            if isinstance(thing, kind):
                return thing
        raise PluginError(f"No {kind.__name__} was given to Lent(...).")


@dataclass(slots=True, frozen=True)
class HookRun:
    """What a hook did: its verdict, its findings, and the call with its edits applied.

    `action` is the word that record and metrics would show: allow, flag, redact, block, answer, route, error.
    """

    verdict: Any
    action: str
    findings: tuple[Finding, ...]
    call: Call
    took: Took | None
    clamp: int | None

    @property
    def texts(self) -> list[str]:
        """The call's texts as they are now."""
        return [text.value for text in self.call.texts]


def policy(text: str, base: str | Path = ".") -> Policy:
    """A policy from YAML text; `version: 1` may be left out. Raises: PolicyError with all findings."""
    if "version:" not in text:
        text = f"version: 1\n{text}"
    return loads(text, source="policy.yaml", base=Path(base))


def read(
    body: Mapping[str, Any],
    *,
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] | None = None,
    tenant: str = "anonymous",
) -> Call:
    """The Call in a body, as the engine would read it from this path.

    Raises: WireError when the body breaks its dialect, or the path belongs to none.
    """
    found = Dialects().find("POST", path, headers or {})
    if found is None:
        raise WireError(f"No dialect claims {path!r}.")
    dialect, operation = found
    data = orjson.dumps(body)
    request = WireRequest("POST", path, "", dict(headers or {}), data)
    made = dialect.read_call(new_id(), operation, request, parse_body(data))
    made.tenant, made.began = tenant, clock.monotonic()
    return made


def call(text: str, *, role: str = "user", model: str = "gpt-4o", **body: Any) -> Call:
    """A chat call with one message; further keys go into its body."""
    return read({"model": model, "messages": [{"role": role, "content": text}], **body})


async def run_hook(
    plugin: Plugin, hook: str, subject: Call, *rest: Any, enforced: bool = True, timeout_s: float = 5.0
) -> HookRun:
    """Run one hook of a plugin as the engine would, `on_error: closed`.

    Raises: PluginError when the plugin has no such hook; CallError when the hook fails.
    """
    if hook not in HOOKS or not hasattr(plugin, hook):
        raise PluginError(f"{type(plugin).__name__} has no hook {hook!r}; hooks are {', '.join(HOOKS)}.")
    run = getattr(plugin, hook)
    step = Step(
        plugin=plugin.name or type(plugin).__name__, hook=hook, run=run, is_async=asyncio.iscoroutinefunction(run),
        blocking=plugin.blocking, enforced=enforced, fail_open=False, timeout_s=timeout_s,
    )  # fmt: skip
    trail = Trail()
    verdict = await run_step(step, trail, subject, *rest)
    for sealed in subject.sealed:
        sealed.reseal()
    took = trail.took[-1] if trail.took else None
    return HookRun(
        verdict, took.action if took else "allow", took.findings if took else (), subject, took, trail.clamp
    )


async def filtered(
    plugin: Plugin, subject: Call, pieces: Iterable[str], *, channel: Channel | None = None
) -> tuple[str, Stopped | None]:
    """What a client would get of these pieces of a reply: the text, and the Stopped that ended it, if one did."""
    reply = Reply(provider="test", model=subject.model, dialect=subject.dialect, stream=True)
    seen = await run_hook(plugin, "post_response", subject, reply)
    if seen.verdict is not None:
        raise CallError("blocked", seen.verdict.message)
    attempt = Attempt(
        subject, number=1, provider="test", model=subject.model, dialect=subject.dialect, body={}
    )
    channels = Channels(filters_of(reply, attempt), lambda attached, what: None)
    where = channel or Channel("content")
    out: list[str] = []
    try:
        for piece in pieces:
            out.append(channels.feed(where, piece))
        out.append(channels.flush(where))
    except Stopped as stopped:
        out.append(stopped.release)
        return "".join(out), stopped
    return "".join(out), None


@contextlib.asynccontextmanager
async def gateway(given: Policy | str) -> AsyncIterator[tuple[str, str]]:
    """A policy served on free loopback ports, in this loop; gives the data URL and the admin URL."""
    loaded = policy(given) if isinstance(given, str) else given
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[tuple[str, str]] = loop.create_future()
    stop = asyncio.Event()
    free = HostPort("127.0.0.1", 0)
    running = loop.create_task(
        serve(
            loaded, free, free, stop=stop, on_ready=lambda data, admin: ready.set_result((data, admin or ""))
        )
    )
    first: set[asyncio.Future[Any]] = {running, ready}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    try:
        yield ready.result()
    finally:
        stop.set()
        await running
