"""Running one hook of one call: on the spot, awaited, or in a thread; what it proposed, and what its failure means.

Rules: what a hook proposed counts only if it returned in time, returned something its hook allows, and is
enforced; a monitored plugin takes the whole decision and changes nothing. What fails is `on_error: closed` (the
call is refused) or `open` (as if it had said nothing). A sync hook costs no coroutine: `run_now`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, TypeAlias

from llmshield import clock
from llmshield.call import Call, Clamp, Edit, Finding, Proposal, Reply
from llmshield.errors import FAILURES, CallError, PluginError, StoreUnavailable
from llmshield.logs import log
from llmshield.verdicts import Answer, Block, Route, Wait

_ALLOWED: dict[str, tuple[type, ...]] = {
    "pre_request": (Block, Answer, Route, Wait),
    "choose_provider": (Route,),
    "post_response": (Block,),
    "on_failure": (Route, Answer),
}

_STRETCH_BYTES = 10_000
"""A hook's time limit grows by its base once per this many bytes of body: long prompts are not refused for
being long."""


@dataclass(slots=True, frozen=True)
class Step:
    """One hook of one plugin, ready to run."""

    plugin: str
    hook: str
    run: Callable[..., Any]
    is_async: bool
    blocking: bool
    enforced: bool
    fail_open: bool
    timeout_s: float
    computes: bool = False
    long_from: int = 0
    """Bytes of a body from which a hook that computes leaves the event loop."""
    waits: bool = field(init=False)
    """Whether it can't be run on the spot."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "waits", self.is_async or self.blocking)


@dataclass(slots=True)
class Took:
    """What one step did, for metrics, debug headers and the decision record."""

    plugin: str
    hook: str
    action: str
    enforced: bool
    ms: float
    findings: tuple[Finding, ...] = ()
    error: str | None = None


@dataclass(slots=True)
class Trail:
    """What all steps of one call did, in order. `stretch` multiplies every time limit; `size` are the bytes of
    the body, which send hooks that compute to a thread."""

    took: list[Took] = field(default_factory=list)
    stretch: float = 1.0
    size: int = 0
    clamp: int | None = None
    edited: bool = False


_FAILURES: tuple[type[BaseException], ...] = (*FAILURES, asyncio.CancelledError)
"""Of a hook that does not wait: nobody can have cancelled it."""


def stretch_for(body_bytes: int) -> float:
    """How much longer than its base a hook may take for a body of this size."""
    return 1.0 + body_bytes / _STRETCH_BYTES


def run_now(step: Step, trail: Trail, call: Call, *rest: Any) -> Any:
    """Run one hook and make its proposals count; returns its verdict if it is enforced, else None.

    Where the hook has to wait (async, or in a thread), an awaitable of that comes back instead.
    Raises: CallError (`policy_unavailable`, or `store_unavailable`) when it fails and is `on_error: closed`.
    """
    if step.waits or (step.computes and trail.size > step.long_from):
        return _run_waiting(step, trail, call, rest)
    started = clock.monotonic()
    limit = step.timeout_s * trail.stretch
    proposals: list[Proposal] = []
    marks = _lend(step, call, rest, proposals, started + limit)
    try:
        verdict = step.run(call, *rest)
        if verdict is None and not proposals and step.enforced:  # as nearly every hook says
            seconds = clock.monotonic() - started
            if seconds <= limit or not clock.overdue(started + limit):
                trail.took.append(Took(step.plugin, step.hook, "allow", True, seconds * 1000))
                return None
        if type(verdict) is Wait:
            verdict = _said(verdict)
        if isinstance(verdict, Awaitable):  # a plain function of a coroutine
            return _wait(step, trail, call, call, verdict, proposals, marks, started, limit)
        return _count(step, trail, proposals, verdict, started, limit)
    except _FAILURES as error:  # whatever a plugin raises means what `on_error` says
        return _fail(step, trail, call, marks, started, limit, error)


async def run_step(step: Step, trail: Trail, call: Call, *rest: Any) -> Any:
    """`run_now`, waited for where it has to be."""
    verdict = run_now(step, trail, call, *rest)
    return await verdict if isinstance(verdict, Awaitable) else verdict


async def _run_waiting(step: Step, trail: Trail, call: Call, rest: tuple[Any, ...]) -> Any:
    """A hook that is async, or computes in a thread on a snapshot of the call."""
    started = clock.monotonic()
    limit = step.timeout_s * trail.stretch
    proposals: list[Proposal] = []
    subject = call if step.is_async else call.snapshot()
    marks = _lend(step, subject, rest, proposals, started + limit)
    working = step.run(subject, *rest) if step.is_async else _in_thread(step.run, subject, *rest)
    return await _wait(step, trail, call, subject, working, proposals, marks, started, limit)


@cache
def _threads() -> ThreadPoolExecutor:
    """The threads of hooks that compute. Not the loop's own: those look up names for everybody, and a few callers with
    ten megabytes of prompt each must not keep them busy for a minute."""
    return ThreadPoolExecutor(max_workers=(os.cpu_count() or 1) + 2, thread_name_prefix="llmshield-hook")


def _in_thread(run: Callable[..., Any], *given: Any) -> Awaitable[Any]:
    def work() -> Any:
        clock.mark()
        return run(*given)

    return asyncio.get_running_loop().run_in_executor(_threads(), partial(copy_context().run, work))


async def _wait(
    step: Step, trail: Trail, call: Call, subject: Call, working: Awaitable[Any], proposals: list[Proposal],
    marks: _Marks, started: float, limit: float,
) -> Any:  # fmt: skip
    try:
        async with asyncio.timeout(limit):
            verdict: Any = await working
            if isinstance(
                verdict, Awaitable
            ):  # computed in a thread, and now something of the loop's is needed
                verdict = await verdict
        if type(verdict) is Wait and step.enforced and step.hook == "pre_request":
            began = clock.monotonic()
            async with asyncio.timeout(verdict.at_most_s + limit):
                verdict = await verdict.turn()
            started += clock.monotonic() - began
            if type(verdict) is Wait:
                raise PluginError("A turn ended in another Wait.")
        said = _count(step, trail, proposals, verdict, started, limit)
        if subject is not call:
            call.adopt(subject, *marks[:2])
        return said
    except FAILURES as error:  # whatever a plugin raises means what `on_error` says
        return _fail(step, trail, subject, marks, started, limit, error)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():  # the client is gone, or the gateway goes
            raise
        return _fail(step, trail, subject, marks, started, limit, error)
    finally:
        call._proposals = []


async def _said(wait: Wait) -> Wait:
    return wait


_Marks: TypeAlias = tuple[int, int, Reply | None, int, int, int]
"""What hung on call and reply before a hook ran (guards, ends; reply, its filters, listeners and ends): a hook that
fails leaves no more than that."""


def _lend(
    step: Step, call: Call, rest: tuple[Any, ...], proposals: list[Proposal], deadline: float
) -> _Marks:
    """Hand the call (and the reply) to a hook: in whose name it acts, and until when."""
    call._proposals = proposals
    call._plugin = step.plugin
    call._enforced = step.enforced
    call._fail_open = step.fail_open
    call.deadline = deadline
    guards, ends = len(call._attempt_guards), len(call._on_end)
    if step.hook != "post_response":
        return guards, ends, None, 0, 0, 0
    reply: Reply = rest[0]
    reply._plugin = step.plugin
    reply._enforced = step.enforced
    reply._fail_open = step.fail_open
    return guards, ends, reply, len(reply._filters), len(reply._listeners), len(reply._on_end)


def _count(
    step: Step, trail: Trail, proposals: list[Proposal], verdict: Any, started: float, limit: float
) -> Any:
    """A hook has returned: make what it proposed count; returns the verdict if it is enforced.

    Raises: TimeoutError when that was too late, PluginError when it said what its hook can't say.
    """
    seconds = clock.monotonic() - started
    if seconds > limit and clock.overdue(started + limit):
        raise TimeoutError
    if verdict is not None:
        kind = type(verdict).__name__
        if not isinstance(verdict, _ALLOWED[step.hook]):
            raise PluginError(f"{step.hook}() returned {kind}, which it can't say.")
        sound: bool = verdict.sound  # type: ignore[attr-defined]  # every verdict has it
        if not sound:
            raise PluginError(f"{step.hook}() returned a {kind} that can't be followed.")
    counts, findings = _settle(proposals, trail, enforced=step.enforced)
    action = _action(verdict, counts, findings)
    if action != "allow" and not step.enforced:
        action = f"would-{action}"
    trail.took.append(Took(step.plugin, step.hook, action, step.enforced, seconds * 1000, findings))
    return verdict if step.enforced else None


def _fail(
    step: Step, trail: Trail, call: Call, marks: _Marks, started: float, limit: float, error: BaseException
) -> None:
    """A hook has failed: what it hung on is gone. Raises: CallError unless it is passed over."""
    guards, ends, reply, filters, listeners, reply_ends = marks
    del call._attempt_guards[guards:]
    del call._on_end[ends:]
    if reply is not None:
        del reply._filters[filters:]
        del reply._listeners[listeners:]
        del reply._on_end[reply_ends:]
    failure = _failed(step, trail, started, limit, error)
    if not step.fail_open and step.enforced:
        raise failure from error


def _settle(proposals: list[Proposal], trail: Trail, *, enforced: bool) -> tuple[int, tuple[Finding, ...]]:
    """Sort a hook's proposals; apply them when enforced. Returns (edits, findings)."""
    if not proposals:
        return 0, ()
    edits = [item for item in proposals if type(item) is Edit]
    clamps = [item.tokens for item in proposals if type(item) is Clamp]
    planned = _plan(edits) if edits else []
    if clamps and (min(clamps) < 1 or any(type(tokens) is not int for tokens in clamps)):
        raise PluginError(f"clamp_output({min(clamps)}) leaves no room for an answer.")
    if enforced:  # nothing can fail from here on: a hook's proposals count all together or not at all
        for text, new in planned:
            text._write(new)
            trail.edited = True
        if clamps:
            trail.clamp = min(clamps) if trail.clamp is None else min(trail.clamp, *clamps)
    return len(edits), tuple(item for item in proposals if type(item) is Finding)


def _plan(edits: list[Edit]) -> list[tuple[Any, str]]:
    """The new value of each edited text. Raises: PluginError on overlapping or impossible spans."""
    by_text: dict[int, list[Edit]] = {}
    for edit in edits:
        by_text.setdefault(id(edit.text), []).append(edit)
    planned = []
    for group in by_text.values():
        text = group[0].text
        value = text.value
        group.sort(key=lambda edit: (edit.start, edit.end))
        parts: list[str] = []
        done = 0
        for edit in group:
            if not (done <= edit.start <= edit.end <= len(value)):
                raise PluginError(f"An edit of {text.place!r} overlaps another one or leaves the text.")
            parts += (value[done : edit.start], edit.new)
            done = edit.end
        parts.append(value[done:])
        planned.append((text, "".join(parts)))
    return planned


def _action(verdict: Any, edits: int, findings: tuple[Finding, ...]) -> str:
    if verdict is not None:
        return {Block: "block", Answer: "answer", Route: "route", Wait: "wait"}[type(verdict)]
    if edits:
        return "redact"
    return "flag" if findings else "allow"


def _failed(step: Step, trail: Trail, started: float, limit: float, error: BaseException) -> CallError:
    """Record a failed step, and make the error that a closed one means. The plugin's own words stay in the log."""
    ms = (clock.monotonic() - started) * 1000
    what = f"timeout after {limit * 1000:.0f} ms" if isinstance(error, TimeoutError) else type(error).__name__
    trail.took.append(Took(step.plugin, step.hook, "error", step.enforced, ms, (), what))
    log.error(
        "plugin_failed",
        plugin=step.plugin,
        hook=step.hook,
        error=what,
        on_error="open" if step.fail_open else "closed",
    )
    kind: Literal["store_unavailable", "policy_unavailable"] = (
        "store_unavailable" if isinstance(error, StoreUnavailable) else "policy_unavailable"
    )
    return CallError(kind, f"Policy plugin {step.plugin!r} failed; the call is refused.", plugin=step.plugin)
