"""What a hook may say. `None` means: go on.

`Block`   this call ends here with an error in the client's dialect (or the dialect's stop signal mid-stream).
`Answer`  reply with this text without asking anybody; no provider is called.
`Route`   ask these targets, in this way.
`Wait`    (pre_request only) hold this call, for a bounded time, until there is room.
`Skip`    (attempt guards only) pass over this target, with a reason for the record.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from llmshield.errors import CallError, ErrorKind

_KINDS = frozenset(get_args(ErrorKind))
_MODES = frozenset({"first", "hedge", "race", "all"})


@dataclass(slots=True, frozen=True)
class Block:
    """End this call with an error.

    `message` is for the caller: it names the rule and the place, never the text. `kind` picks status, type and
    code in each dialect. `param` is a place in the caller's words (`text.param`). `retry_after_s` in seconds.
    """

    message: str
    kind: ErrorKind = "blocked"
    param: str | None = None
    retry_after_s: float | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether this can be said to a client."""
        return isinstance(self.message, str) and self.kind in _KINDS and isinstance(self.param, str | None)

    def error(self, plugin: str) -> CallError:
        """The same, as the error that a dialect writes."""
        return CallError(
            self.kind, self.message, param=self.param, plugin=plugin, retry_after_s=self.retry_after_s,
            code=self.code, headers=self.headers,
        )  # fmt: skip


@dataclass(slots=True, frozen=True)
class Answer:
    """Reply with `text` in the client's dialect, whole or streamed as the client asked.

    `degraded` marks a last resort in header and record; `cached` an answer that was given before.
    """

    text: str
    model: str | None = None
    degraded: bool = False
    cached: bool = False

    @property
    def sound(self) -> bool:
        """Whether this can be said to a client."""
        return isinstance(self.text, str) and isinstance(self.model, str | None)


@dataclass(slots=True, frozen=True)
class Target:
    """One provider to ask, and the model there (None: the model the client named)."""

    provider: str
    model: str | None = None


@dataclass(slots=True, frozen=True)
class Route:
    """Ask these targets, in one of these ways.

    `first` walks them in order, one at a time; `hedge` asks the second as well if the first has not begun to answer
    after `after` seconds, and answers with who begins first; `race` asks all of them at once and answers with who
    begins first; `all` asks them all at once and answers with what `pick` makes of their whole replies.

    In `first`, `after` is a wait in seconds before the next attempt. `why` explains the choice in the
    decision record. `at_hedge` is asked when the time for the second target of a hedge has come: False, and it stays
    with the first.
    """

    targets: tuple[Target, ...]
    mode: Literal["first", "hedge", "race", "all"] = "first"
    after: float = 0.0
    why: str = ""
    at_hedge: Callable[[], bool] | None = None
    pick: Callable[[Sequence[Any]], Awaitable[Sequence[int]]] | None = None
    """For `all`: which of the replies (`racing.Candidate`: target, text) are the answer, as indices; several become
    several choices."""
    quorum: int = 1
    """For `all`: with fewer replies the call fails."""

    @property
    def sound(self) -> bool:
        """Whether this can be walked: a wait that is no number would never end."""
        if self.mode not in _MODES or not math.isfinite(self.after):
            return False
        return all(isinstance(target, Target) for target in self.targets)


@dataclass(slots=True, frozen=True)
class Wait:
    """Hold this call here until `turn()` has a verdict for it (None: go on), at most `at_most_s` seconds.

    Nobody sleeps in a hook: its time limit is for work. So the hook returns this, and the wait happens outside of
    that limit; a client that goes away cancels it. In monitor mode nobody waits: it is counted as `would-wait`.
    """

    turn: Callable[[], Awaitable[Block | Answer | Route | None]]
    at_most_s: float

    @property
    def sound(self) -> bool:
        """Whether this can be waited for."""
        return callable(self.turn) and math.isfinite(self.at_most_s)


@dataclass(slots=True, frozen=True)
class Skip:
    """Pass over this target; `reason` goes into the decision record. `otherwise` is what the client is told if
    nobody else could be asked. `circuit` says that the target's circuit is open, for `retry_after_s` seconds."""

    reason: str
    otherwise: Block | None = None
    circuit: bool = False
    retry_after_s: float | None = None


Verdict: TypeAlias = Block | Answer | Route | Wait | None
