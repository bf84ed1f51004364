"""Policy -> Chain: pluggy checks the plugins when the policy is read, tuples of callables run the calls.

Raw pluggy mishandles `async def` (sync bodies run before async ones; with `firstresult` a coroutine that would
return None still wins; an early stop leaks coroutines: pluggy issue 320), so it never runs a call here.

Rule: order is the policy's (`post_response`: reversed). How one hook is run is in `steps.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmshield.errors import PluginError
from llmshield.hookspecs import HOOKS, HookSpecs, Plugin, Resources, breach
from llmshield.logs import log
from llmshield.policy import Exemption, Override, Policy
from llmshield.policy.server import Mode
from llmshield.steps import Step, Took, Trail, run_now, run_step, stretch_for

__all__ = ["Chain", "Step", "Took", "Trail", "build", "run_now", "run_step", "stretch_for"]


class Chain:
    """The hooks of one policy as tuples."""

    __slots__ = ("_entries", "_variants", "choose_provider", "on_failure", "post_response", "pre_request")

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._entries = tuple(entries)
        self._compile()

    def _compile(self) -> None:
        """Which hooks have something to do is known once the plugins have started (`Plugin.idle`)."""
        self._variants: dict[tuple[int, ...], Chain] = {}
        self.pre_request = self._steps("pre_request")
        self.choose_provider = self._steps("choose_provider")
        self.post_response = self._steps("post_response")[::-1]
        self.on_failure = self._steps("on_failure")

    def _steps(self, hook: str) -> tuple[Step, ...]:
        return tuple(
            entry.step(hook)
            for entry in self._entries
            if hook in entry.hooks and hook not in entry.plugin.idle and entry.mode != "disabled"
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

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Every plugin that is not disabled, in policy order."""
        return tuple(entry.plugin for entry in self._entries if entry.mode != "disabled")

    async def start(self, resources: Resources) -> None:
        """Start every plugin, in policy order. Raises: PluginError naming the one that can't start."""
        for entry in self._entries:
            try:
                await entry.plugin.start(resources)
            except Exception as error:
                raise PluginError(
                    f"Plugin {entry.name!r} can't start: {type(error).__name__}: {error}"
                ) from error
        self._compile()

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
            self.plugin.computes and not is_async and hook == "pre_request", self.plugin.long_from,
        )  # fmt: skip

    def under(self, exemptions: Sequence[Exemption]) -> _Entry:
        entry = self
        for exemption in exemptions:
            entry = replace(
                entry,
                mode=exemption.mode or entry.mode,
                fail_open=exemption.on_error == "open" and not entry.plugin.fails_closed
                if exemption.on_error
                else entry.fail_open,
                timeout_s=exemption.timeout or entry.timeout_s,
            )
        return entry


def build(policy: Policy) -> Chain:
    """Instantiate and check every plugin of the policy. Raises: PluginError with the plugin and what is wrong."""
    entries: list[_Entry] = []
    for item in policy.plugins:
        try:
            plugin = item.plugin(item.settings)
        except Exception as error:
            raise PluginError(
                f"Plugin {item.name!r} can't be made: {type(error).__name__}: {error}"
            ) from error
        plugin.name = item.name
        if (wrong := breach(plugin)) is not None:
            raise PluginError(f"Plugin {item.name!r} breaks the hook contract: {wrong}")
        hooks = {
            hook: (_adapted(hook, run), inspect.iscoroutinefunction(run))
            for hook in HOOKS
            if (run := getattr(plugin, hook, None)) is not None
        }
        entries.append(_Entry(item.name, plugin, item.mode, item.on_error == "open", item.timeout, hooks))
    return Chain(entries)


def _adapted(hook: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that takes fewer arguments than its spec (pluggy allows it) gets just those."""
    wanted = [name for name in inspect.signature(getattr(HookSpecs, hook)).parameters if name != "self"]
    taken = list(inspect.signature(run).parameters)
    if taken == wanted:
        return run
    picks = [wanted.index(name) for name in taken if name in wanted]
    return lambda *given: run(*(given[index] for index in picks))
