"""What fires in a text: the signatures that may match in it, and the triggers of views.

Patterns that wait for different things share no Set, or a text that was never seen takes ten times as long: each character
leads into a state that has to be made. What only long runs can hold is looked for in those, what only digits write in
texts that have some, and which cipher a word is in when it is a word in any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from . import views
from .literals import group_of
from .longwords import LongWords
from .matcher import Matcher, Pattern
from .signatures import Signature

# Sets of the built-in signatures, by the order of their first words: two take 0.25 us per character of a text that was
# never seen, six 0.1, twelve 0.08; each costs half a microsecond more per text.
_SETS: Final = 6
_DIGITS: Final = b"0123456789"
_FEW: Final = 8
"""Numbers of fewer digits hold no text."""
_LONG: Final = 12
_VISIBLE: Final = bytes(code if 0x21 <= code <= 0x7E else 0x20 for code in range(256))
# One Set of all ciphers takes 0.2 us per character of a text that was never seen, eight two thirds of it.
_CIPHER_SETS: Final = 8


class Firing:
    """Everything that is looked for in a text, by number: signatures, then triggers, then `common`."""

    def __init__(
        self, signatures: Sequence[Signature], triggers: Sequence[views.Trigger], long_words: LongWords
    ) -> None:
        self.first_trigger = len(signatures)
        self.common = self.first_trigger + len(triggers)
        """Fires where an everyday word stands."""
        self.noise = [self.common]
        """All that fires in most texts."""
        self._in_long, self._cipher = self.common + 1, self.common + 2
        self._long_words = long_words
        ours = sorted(
            (index for index, s in enumerate(signatures) if s.example and s.pattern.isascii()),
            key=lambda index: (_first_word(signatures[index].pattern), index),
        )
        sets = {index: f"s{place * _SETS // len(ours)}" for place, index in enumerate(ours)}
        numbered = [(self.first_trigger + number, trigger.pattern) for number, trigger in enumerate(triggers)]
        runs, digits, ciphers = (
            {index: pattern.source for index, pattern in numbered if pattern.group == group}
            for group in ("runs", "digits", "ciphers")
        )
        patterns = [Pattern(s.pattern, sets.get(index, group_of(s))) for index, s in enumerate(signatures)]
        patterns += [pattern for _, pattern in numbered]
        apart = runs.keys() | digits.keys() | ciphers.keys()
        self._numbers = [index for index in range(len(patterns)) if index not in apart]
        main = [patterns[index] for index in self._numbers]
        main += [
            Pattern(views.COMMON, "common"),
            Pattern(f"[!-~]{{{_LONG}}}", "forms"),
            Pattern("|".join(ciphers.values()), "ciphers"),
        ]
        self._numbers += [self.common, self._in_long, self._cipher]
        self._main = Matcher(main)
        self._ending = self._main.without("forms", "ciphers")
        self._by_sight = self._main.without("forms", "common", "ciphers")
        self._common = Matcher([Pattern(views.COMMON, "common")])
        # One Set each: random letters and digits are in many places of many of them at once.
        self._runs, self._run_numbers = Matcher([Pattern(p, f"{i}") for i, p in runs.items()]), list(runs)
        self._digits, self._digit_numbers = (
            Matcher([Pattern(p, f"{i}") for i, p in digits.items()]),
            list(digits),
        )
        self._ciphers, self._cipher_numbers = (
            Matcher([Pattern(p, f"{number % _CIPHER_SETS}") for number, p in enumerate(ciphers.values())]),
            list(ciphers),
        )
        self._glued = (
            next(index for index, trigger in enumerate(triggers) if trigger.by_words) + self.first_trigger
        )

    def everything(self, text: str) -> list[int]:
        """All that fires in a text."""
        found = self._named(self._main, text)
        if self._in_long in found:
            found.remove(self._in_long)
            long = _long_runs(text)
            found += [self._run_numbers[hit] for hit in self._runs.match(long)]
            if self._glued in found and not self._long_words.say_something(long):
                found.remove(self._glued)
        if _has_digits(text):
            found += [self._digit_numbers[hit] for hit in self._digits.match(text)]
        if self._cipher in found:
            found.remove(self._cipher)
            found += [self._cipher_numbers[hit] for hit in self._ciphers.match(text)]
        return found

    def ending(self, text: str) -> list[int]:
        """What fires in a view that is not read on: signatures, and everyday words."""
        return self._named(self._ending, text)

    def by_sight(self, text: str) -> list[int]:
        """The signatures alone."""
        return self._named(self._by_sight, text)

    def is_prose(self, text: str) -> bool:
        """Whether an everyday word stands in a text."""
        return bool(self._common.match(text))

    def _named(self, matcher: Matcher, text: str) -> list[int]:
        numbers = self._numbers
        return [numbers[hit] for hit in matcher.match(text)]


def _has_digits(text: str) -> bool:
    raw = text.encode()
    return len(raw) - len(raw.translate(None, _DIGITS)) >= _FEW


def _long_runs(text: str) -> str:
    """The runs of so many visible ASCII characters, one a line."""
    runs = text.encode().translate(_VISIBLE).split()
    return b"\n".join([run for run in runs if len(run) >= _LONG]).decode()


def _first_word(pattern: str) -> str:
    return pattern.removeprefix("\\b").removeprefix("(?:")[:6]
