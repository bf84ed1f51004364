"""Who keeps something about people: one module for each kind of personal data, found by `registry`.

`llmshield privacy export` and `erase` ask all of them. A new kind (transcripts, a cache) is a new file here, or an
entry point in the group `llmshield.holders`, and the commands know it the same day.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from llmshield.policy import Policy


@dataclass(slots=True)
class Erased:
    """What a holder has done: how many `people` and `items` it was about; what is `left`, and what `proof` there is
    of what was destroyed, as sentences."""

    people: int = 0
    items: int = 0
    left: list[str] = field(default_factory=list)
    proof: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Resealed:
    """How many `people`'s keys were sealed anew, and what is `left` under an older key, as sentences."""

    people: int = 0
    left: list[str] = field(default_factory=list)


class Holder(ABC):
    """Keeps something about people under one policy. `what` names it for the person who asks."""

    what: ClassVar[str]

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @abstractmethod
    def export(self, user: str, tenant: str | None) -> Iterator[dict[str, Any]]:
        """Everything that is kept about this person (of every tenant without one), as plain values.

        Raises: ShieldError, OSError when it can't be read.
        """

    @abstractmethod
    def erase(self, user: str, tenant: str | None) -> Erased:
        """Make it unreadable for good, here and in every process within a second; running twice does no harm.

        Raises: ShieldError, OSError when that is not done: nobody may be told that it was.
        """

    def reseal(self) -> Resealed:
        """Seal anew, under the master key that seals now, what is sealed under an older one; safe to repeat.

        Raises: ShieldError, OSError.
        """
        return Resealed()
