"""Placeholders of one call: `<EMAIL_ADDRESS_1>` for a value, and the value for a placeholder.

The mapping lives in this object, this object in `call.state`, and nowhere else: no log, no metric, no repr. (Where a policy
asks for it, `conversations.py` seals it for the calls that follow.)
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

from llmshield.errors import PluginError
from llmshield_plugins.pii.expressions import compiled, narrow

Make: TypeAlias = Callable[[str, str], str]
"""kind, value -> what takes its place"""
_ATTEMPTS = 64
_LOOKED_UP = 256


def canonical(name: str) -> str:
    """`Email\\_Address\\_1` and `email address 1` are EMAIL_ADDRESS_1."""
    parts = name.replace("\\", "").replace("-", "_").replace(" ", "_").upper().split("_")
    return "_".join(part for part in parts if part)


@dataclass(slots=True)
class Given:
    """What was given: name -> value, (kind, value) -> surrogate, kind -> the last number."""

    originals: dict[str, str] = field(default_factory=dict)
    fakes: dict[tuple[str, str], str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How much that is; what is given is never taken back."""
        return len(self.originals) + len(self.fakes)


class Placeholders:
    """What was replaced in one call. Same value and kind: same placeholder; numbers count from 1 for each kind.

    `texts` gives the client's own texts, asked for once: names that occur there are never given out, so that
    nobody can make another's value appear by writing its placeholder.
    """

    __slots__ = ("_given", "_made", "_numbers", "_said", "_taken", "_texts", "originals", "surrogates")

    def __init__(
        self,
        texts: Callable[[], Iterable[str]],
        given: Given | None = None,
        taken: dict[str, frozenset[int]] | None = None,
    ) -> None:
        """`given`: by earlier calls of the conversation. `taken`: numbers that the texts hold, as far as they are known."""
        given = given or Given()
        self._texts = texts
        self._taken: dict[str, frozenset[int]] = {} if taken is None else taken
        self._given: dict[tuple[str, str], str] = {
            (name.rpartition("_")[0], value): name for name, value in given.originals.items()
        }
        self._numbers: dict[str, int] = given.numbers
        self.originals: dict[str, str] = given.originals
        """Name without brackets -> value, for those that may be restored."""
        self.surrogates: dict[str, str] = {made.casefold(): of[1] for of, made in given.fakes.items()}
        """Surrogate, case-folded -> value: they may be restored as well."""
        self._made: dict[tuple[str, str], str] = dict(given.fakes)
        self._said: str | None = None

    @property
    def given(self) -> Given:
        """All that was given, for the calls that follow."""
        fakes = {of: made for of, made in self._made.items() if made.casefold() in self.surrogates}
        return Given(self.originals, fakes, self._numbers)

    def give(self, kind: str, value: str) -> str:
        """The placeholder for a value that the client sent; the answer may bring it back."""
        name = self._given.get((kind, value))
        if name is None:
            name = self._name(kind, self._numbers)
            self._given[kind, value] = name
            self.originals[name] = value
        return f"<{name}>"

    def once(self, kind: str, value: str, make: Make) -> str:
        """What takes the place of a value and is not brought back: made once."""
        made = self._made.get((kind, value))
        if made is None:
            made = self._made[kind, value] = make(kind, value)
        return made

    def stand_in(self, kind: str, value: str, make: Callable[[int], str]) -> str:
        """The surrogate for a value that the client sent. None that stands in the client's own texts, or for another
        value: it could not be told from what it is."""
        made = self._made.get((kind, value))
        if made is None:
            made = self._made[kind, value] = self._free(make, ())
            self.surrogates[made.casefold()] = value
        return made

    def _free(self, make: Callable[[int], str], taken: Container[str]) -> str:
        for attempt in range(_ATTEMPTS):
            made = make(attempt)
            if made not in taken and made.casefold() not in self.surrogates and not self._is_said(made):
                return made
        raise PluginError("There is no surrogate left for a value: too many of its kind in one call.")

    def _is_said(self, made: str) -> bool:
        """Whether the client's own texts have it, in any case; of a crowd of values only the first are looked up."""
        if len(self.surrogates) >= _LOOKED_UP:
            return False
        if self._said is None:
            self._said = "\n".join(self._texts()).casefold()
        return made.casefold() in self._said

    def known(self, kind: str, value: str) -> str | None:
        """The placeholder that this value already has."""
        name = self._given.get((kind, value))
        return None if name is None else f"<{name}>"

    def fork(self) -> Numbering:
        """Numbering that goes on from here for what a provider wrote; such names are never restored."""
        return Numbering(self, dict(self._numbers))

    def _name(self, kind: str, numbers: dict[str, int]) -> str:
        taken = self._taken.get(kind)
        if taken is None:
            taken = self._taken[kind] = numbers_of(kind, self._texts())
        number = numbers.get(kind, 0) + 1
        while number in taken:
            number += 1
        numbers[kind] = number
        return f"{kind}_{number}"

    def __repr__(self) -> str:
        return f"<Placeholders {len(self.originals)}>"


class Numbering:
    """Placeholders for values that a provider wrote into one channel of a reply."""

    __slots__ = ("_given", "_made", "_numbers", "_of")

    def __init__(self, of: Placeholders, numbers: dict[str, int]) -> None:
        self._of = of
        self._numbers = numbers
        self._given: dict[tuple[str, str], str] = {}
        self._made: dict[tuple[str, str], str] = {}

    def give(self, kind: str, value: str) -> str:
        """The client's own value gets its own placeholder (and is restored); any other a new one."""
        known = self._of.known(kind, value)
        if known is not None:
            return known
        name = self._given.get((kind, value))
        if name is None:
            name = self._given[kind, value] = self._of._name(kind, self._numbers)
        return f"<{name}>"

    def once(self, kind: str, value: str, make: Make) -> str:
        """As the call's own."""
        return self._of.once(kind, value, make)

    def stand_in(self, kind: str, value: str, make: Callable[[int], str]) -> str:
        """The client's own value gets its own surrogate (and is restored); any other one that stays."""
        made = self._of._made.get((kind, value)) or self._made.get((kind, value))
        if made is None:
            made = self._made[kind, value] = self._of._free(make, self._made.values())
        return made


def numbers_of(kind: str, texts: Iterable[str]) -> frozenset[int]:
    """The numbers with which these texts already name this kind, in any spelling that would be restored."""
    expression = _spelled(kind)
    return frozenset(int(match.group(1)) for text in texts for match in expression.finditer(narrow(text)))


@cache
def _spelled(kind: str) -> Any:
    parts = kind.split("_")
    return compiled(r"(?i)" + r"[_\\ -]+".join([*parts, "([0-9]{1,9})"]))
