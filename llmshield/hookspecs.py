"""THE contract: four hooks and the class that a plugin is.

A plugin module holds one public subclass of `Plugin`; the name in the policy (`use: NAME`) is the module's
name. It implements the hooks it needs, sync or async. pluggy checks names and arguments when the policy is
read; at run time each hook is a tuple of callables in the policy's order (`post_response`: in reverse).

What a hook may do: read the call, propose edits (`text.replace`, `call.clamp_output`), `call.report` findings,
hang on guards, filters and end callbacks, and return a verdict. What it must not do: sleep (say
`Route(after=...)` or `Wait(...)`), mutate `call.body`, keep a reference to a call after its end, or raise to signal a verdict.
An exception or a timeout means what the policy's `on_error` says: `closed` refuses the call, `open` goes on.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import pluggy
from pydantic import BaseModel, ConfigDict

from llmshield.call import Call, Failure, Reply
from llmshield.redact import redact
from llmshield.verdicts import Answer, Block, Route, Verdict

if TYPE_CHECKING:
    from llmshield.stores import Window

PROJECT = "llmshield"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

HOOKS = ("pre_request", "choose_provider", "post_response", "on_failure")

T = TypeVar("T")


class Settings(BaseModel):
    """Base of a plugin's settings: unknown keys are refused with a hint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __repr__(self) -> str:
        """As pydantic writes it, without secrets."""
        return redact(super().__repr__())

    __str__ = __repr__


@runtime_checkable
class Resources(Protocol):
    """What the house lends a plugin, asked for by type: `resources.get(Ledger)`.

    Available: `Policy`, `Ledger`, `Prices`, `Circuits`, `Metrics` and the `Store`.
    Raises: PluginError when the house has no such thing.
    """

    def get(self, kind: type[T]) -> T: ...


class Plugin:
    """Base class of every plugin.

    `settings` is the validated `Settings` of this entry in the policy. `start` runs once before the first call
    (load models, open what is needed), `close` once after the last. Hooks are methods with the names and
    arguments of `HookSpecs`; leave out what you do not need.
    """

    Settings: ClassVar[type[BaseModel]] = Settings
    blocking: ClassVar[bool] = False
    """True: hooks really compute (over a millisecond); they run in a thread on a snapshot of the call."""
    computes: ClassVar[bool] = False
    """True: the work of `pre_request` grows with the text; for long calls it runs in a thread as well, so that one
    prompt of a megabyte does not keep all other calls waiting. It may use nothing that belongs to the event loop."""
    long_from: int = 16 * 1024
    """Bytes of a body above which a call is long, where `computes`: below it a hook should take a few milliseconds."""

    once: ClassVar[bool] = False
    """True: a policy may use it once only, under whatever name (two would count the same thing twice)."""

    fails_closed: ClassVar[bool] = False
    """True: a crash of it always refuses the call; `on_error: open` beside it is an error in the policy."""

    idle: frozenset[str] = frozenset()
    """Hooks that have nothing to do under these settings; set in `__init__` or `start`, they are not run at all."""

    name: str = ""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    async def start(self, resources: Resources) -> None:
        """Get ready; readiness waits for it. Raises: whatever makes this plugin unusable."""

    async def close(self) -> None:
        """Let go of what `start` took."""

    def windows_of(self, tenant: str) -> Mapping[str, Sequence[Window]]:
        """For `/usage` on the admin port: the limits that this plugin counts a tenant's calls against, by what they
        count (`requests`, `tokens`); none without this method."""
        return {}


class HookSpecs:
    """The four moments of a call."""

    @hookspec
    def pre_request(self, call: Call) -> Verdict | Awaitable[Verdict]:
        """Before the call is sent anywhere: who may pass, what is hidden, what is bounded.

        Runs once per call, in policy order; the first verdict ends the walk. May propose edits, hang attempt
        guards and end callbacks on the call. `Block` refuses, `Answer` replies at once, `Route` fixes the
        targets (and `choose_provider` is skipped), `Wait` holds the call until it has one of these.
        """

    @hookspec
    def choose_provider(self, call: Call, route: Route) -> Route | Awaitable[Route | None] | None:
        """When the targets are chosen: `route` is what the policy's `routes:` say for this call.

        Runs once per call, in policy order; the first answer wins; with none, `route` stands.
        """

    @hookspec
    def post_response(self, call: Call, reply: Reply) -> Block | Awaitable[Block | None] | None:
        """When the head of the reply is known, before any of it reaches the client.

        Runs once per call, in reverse policy order. May hang filters and end callbacks on the reply; `Block`
        refuses it. The text itself comes through the filters, whole or in pieces.
        """

    @hookspec
    def on_failure(
        self, call: Call, failure: Failure
    ) -> Route | Answer | Awaitable[Route | Answer | None] | None:
        """When an attempt has failed and nothing of it reached the client.

        Runs after each failed attempt, in policy order; the first answer wins. `Route` says whom to ask next
        (after how many seconds), `Answer` ends with a text, None from all gives up: the client gets the error.
        """


def breach(plugin: Plugin | type[Plugin]) -> str | None:
    """What is wrong with the hooks of a plugin, or of its class, in words; None: nothing."""
    kind = plugin if isinstance(plugin, type) else type(plugin)
    for attribute, _ in inspect.getmembers(kind, callable):
        if attribute.startswith("_") or attribute in HOOKS or hasattr(Plugin, attribute):
            continue
        close = difflib.get_close_matches(attribute, HOOKS, n=1, cutoff=0.85)
        if close:  # it would never run
            return f"{attribute}() is no hook that is ever called; did you mean {close[0]!r}?"
    manager = _Manager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError:
        for hook in HOOKS:
            if (run := getattr(plugin, hook, None)) is None:
                continue
            wanted = list(inspect.signature(getattr(HookSpecs, hook)).parameters)
            strange = [name for name in inspect.signature(run).parameters if name not in wanted]
            if strange:
                return f"{hook}() takes {', '.join(strange)}; it may take {', '.join(wanted[1:])}, by these names"
        raise
    except ValueError as error:
        return str(error)
    return None


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
