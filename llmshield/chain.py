"""Policy -> Chain: pluggy checks the plugins when the policy is read, tuples of callables run the calls.

Raw pluggy mishandles `async def` (sync bodies run before async ones; with `firstresult` a coroutine that would
return None still wins; an early stop leaks coroutines: pluggy issue 320), so it never runs a call here.

Rules: order is the policy's (`post_response`: reversed). What a hook proposed counts only if it returned in
time, returned something its hook allows, and is enforced; a monitored plugin takes the whole decision and
changes nothing. What fails is `on_error: closed` (the call is refused) or `open` (as if it had said nothing).
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pluggy

from llmshield import clock
from llmshield.call import Call, Clamp, Edit, Finding, Proposal, Reply
from llmshield.errors import CallError, PluginError, StoreUnavailable
from llmshield.hookspecs import HOOKS, PROJECT, HookSpecs, Plugin, Resources
from llmshield.logs import log
from llmshield.policy import Exemption, Override, Policy
from llmshield.policy.server import Mode
from llmshield.verdicts import Answer, Block, Route

_ALLOWED: dict[str, tuple[type, ...]] = {
    "pre_request": (Block, Answer, Route),
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
    """What all steps of one call did, in order. `stretch` multiplies every time limit; `long` sends hooks that
    compute to a thread."""

    took: list[Took] = field(default_factory=list)
    stretch: float = 1.0
    long: bool = False
    clamp: int | None = None
    edited: bool = False


def stretch_for(body_bytes: int) -> float:
    """How much longer than its base a hook may take for a body of this size."""
    return 1.0 + body_bytes / _STRETCH_BYTES


class Chain:
    """The hooks of one policy as tuples."""

    __slots__ = ("_entries", "_variants", "choose_provider", "on_failure", "post_response", "pre_request")

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._entries = tuple(entries)
        self._variants: dict[tuple[int, ...], Chain] = {}
        self.pre_request = self._steps("pre_request")
        self.choose_provider = self._steps("choose_provider")
        self.post_response = self._steps("post_response")[::-1]
        self.on_failure = self._steps("on_failure")

    def _steps(self, hook: str) -> tuple[Step, ...]:
        return tuple(
            entry.step(hook) for entry in self._entries if hook in entry.hooks and entry.mode != "disabled"
        )

    def under(self, overrides: Sequence[Override]) -> Chain:
        """The same chain with the exemptions of these overrides, later ones winning; compiled once each."""
        key = tuple(id(override) for override in overrides)
        variant = self._variants.get(key)
        if variant is None:
            changed = [
                entry.under([o.plugins[entry.name] for o in overrides if entry.name in o.plugins])
                for entry in self._entries
            ]
            variant = self._variants[key] = Chain(changed)
        return variant

    @property
    def modes(self) -> dict[str, Mode]:
        """Every plugin of the policy with its mode, in policy order."""
        return {entry.name: entry.mode for entry in self._entries}

    async def start(self, resources: Resources) -> None:
        """Start every plugin, in policy order. Raises: PluginError naming the one that can't start."""
        for entry in self._entries:
            try:
                await entry.plugin.start(resources)
            except Exception as error:
                raise PluginError(
                    f"Plugin {entry.name!r} can't start: {type(error).__name__}: {error}"
                ) from error

    async def close(self) -> None:
        """Close every plugin, the last first; one that fails is logged and does not keep the others open."""
        for entry in reversed(self._entries):
            try:
                await entry.plugin.close()
            except Exception as error:  # noqa: BLE001  the way out: every other plugin must still be closed
                log.error("plugin_close_failed", plugin=entry.name, error=type(error).__name__)


@dataclass(slots=True, frozen=True)
class _Entry:
    """A plugin of the policy, how it runs, and its hooks as callables."""

    name: str
    plugin: Plugin
    mode: Mode
    fail_open: bool
    timeout_s: float
    hooks: Mapping[str, tuple[Callable[..., Any], bool]]

    def step(self, hook: str) -> Step:
        run, is_async = self.hooks[hook]
        blocking = self.plugin.blocking and not is_async
        return Step(
            self.name, hook, run, is_async, blocking, self.mode == "enforce", self.fail_open, self.timeout_s,
            self.plugin.computes and not is_async and hook == "pre_request",
        )  # fmt: skip

    def under(self, exemptions: Sequence[Exemption]) -> _Entry:
        entry = self
        for exemption in exemptions:
            entry = replace(
                entry,
                mode=exemption.mode or entry.mode,
                fail_open=exemption.on_error == "open" if exemption.on_error else entry.fail_open,
                timeout_s=exemption.timeout or entry.timeout_s,
            )
        return entry


def build(policy: Policy) -> Chain:
    """Instantiate and check every plugin of the policy. Raises: PluginError with the plugin and what is wrong."""
    manager = _Manager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    entries: list[_Entry] = []
    for item in policy.plugins:
        try:
            plugin = item.plugin(item.settings)
        except Exception as error:
            raise PluginError(
                f"Plugin {item.name!r} can't be made: {type(error).__name__}: {error}"
            ) from error
        plugin.name = item.name
        _refuse_near_misses(item.name, plugin)
        try:
            manager.register(plugin, name=item.name)
            manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"Plugin {item.name!r} breaks the hook contract: {error}") from error
        hooks = {
            hook: (_adapted(hook, run), inspect.iscoroutinefunction(run))
            for hook in HOOKS
            if (run := getattr(plugin, hook, None)) is not None
        }
        entries.append(_Entry(item.name, plugin, item.mode, item.on_error == "open", item.timeout, hooks))
    return Chain(entries)


class _Manager(pluggy.PluginManager):
    """Takes plain methods named like a hook; refuses pluggy's own ordering, which belongs to the policy."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        options: Any = super().parse_hookimpl_opts(plugin, name)
        if options is not None:
            for option in ("tryfirst", "trylast", "hookwrapper", "wrapper"):
                if options.get(option):
                    raise ValueError(
                        f"{name}() asks for {option}; order belongs to the policy file: move the plugin there"
                    )
            return options
        return pluggy.HookimplOpts() if name in HOOKS else None  # type: ignore[typeddict-item]


def _adapted(hook: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that takes fewer arguments than its spec (pluggy allows it) gets just those."""
    wanted = [name for name in inspect.signature(getattr(HookSpecs, hook)).parameters if name != "self"]
    taken = list(inspect.signature(run).parameters)
    if taken == wanted:
        return run
    picks = [wanted.index(name) for name in taken if name in wanted]
    return lambda *given: run(*(given[index] for index in picks))


def _refuse_near_misses(name: str, plugin: Plugin) -> None:
    """A public method whose name is almost a hook's would never run: say so at load."""
    for attribute, _ in inspect.getmembers(type(plugin), callable):
        if attribute.startswith("_") or attribute in HOOKS or hasattr(Plugin, attribute):
            continue
        close = difflib.get_close_matches(attribute, HOOKS, n=1, cutoff=0.85)
        if close:
            raise PluginError(
                f"Plugin {name!r} has a method {attribute!r} that no hook calls; did you mean {close[0]!r}?"
            )


async def run_step(step: Step, trail: Trail, call: Call, *rest: Any) -> Any:
    """Run one hook and make its proposals count; returns its verdict if it is enforced, else None.

    Raises: CallError (`policy_unavailable`, or `store_unavailable`) when it fails and is `on_error: closed`.
    """
    subject: Call = call
    proposals: list[Proposal] = []
    limit = step.timeout_s * trail.stretch
    started = clock.monotonic()
    threaded = step.blocking or (step.computes and trail.long)
    if threaded:
        subject = call.snapshot()
    subject._proposals = proposals
    subject._plugin = step.plugin
    subject._enforced = step.enforced
    subject._fail_open = step.fail_open
    subject.deadline = started + limit
    reply: Reply | None = None
    filters = reply_ends = 0
    if step.hook == "post_response":
        reply = rest[0]
        assert reply is not None
        reply._plugin = step.plugin
        reply._enforced = step.enforced
        reply._fail_open = step.fail_open
        filters, reply_ends = len(reply._filters), len(reply._on_end)
    guards, ends = len(subject._attempt_guards), len(subject._on_end)
    try:
        if step.is_async:
            async with asyncio.timeout(limit):
                verdict = await step.run(subject, *rest)
        elif threaded:
            async with asyncio.timeout(limit):
                verdict = await asyncio.to_thread(step.run, subject, *rest)
        else:
            verdict = step.run(subject, *rest)
            if verdict is not None and isinstance(verdict, Awaitable):  # a plain function of a coroutine
                async with asyncio.timeout(limit):
                    verdict = await verdict
        ms = (clock.monotonic() - started) * 1000
        if ms > limit * 1000:
            raise TimeoutError
        if verdict is not None and not isinstance(verdict, _ALLOWED[step.hook]):
            raise PluginError(f"{step.hook}() returned {type(verdict).__name__}, which it can't say.")
        counts, findings = _settle(call, proposals, trail, enforced=step.enforced)
    except Exception as error:  # whatever a plugin raises means what `on_error` says
        del subject._attempt_guards[guards:]
        del subject._on_end[ends:]
        if reply is not None:
            del reply._filters[filters:]
            del reply._on_end[reply_ends:]
        failure = _failed(step, trail, started, limit, error)
        if step.fail_open or not step.enforced:
            return None
        raise failure from error
    finally:
        call._proposals = []
    if threaded:
        call.adopt(subject, guards, ends)
    if proposals or verdict is not None or not step.enforced:
        action = _action(verdict, counts, findings)
        if action != "allow" and not step.enforced:
            action = f"would-{action}"
        trail.took.append(Took(step.plugin, step.hook, action, step.enforced, ms, findings))
    else:
        trail.took.append(Took(step.plugin, step.hook, "allow", True, ms))
    return verdict if step.enforced else None


def _settle(
    call: Call, proposals: list[Proposal], trail: Trail, *, enforced: bool
) -> tuple[int, tuple[Finding, ...]]:
    """Sort a hook's proposals; apply them when enforced. Returns (edits, findings)."""
    if not proposals:
        return 0, ()
    edits = [item for item in proposals if type(item) is Edit]
    clamps = [item.tokens for item in proposals if type(item) is Clamp]
    planned = _plan(edits) if edits else []
    if clamps and min(clamps) < 1:
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
        return {Block: "block", Answer: "answer", Route: "route"}[type(verdict)]
    if edits:
        return "redact"
    return "flag" if findings else "allow"


def _failed(step: Step, trail: Trail, started: float, limit: float, error: Exception) -> CallError:
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
