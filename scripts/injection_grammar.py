"""Texts out of a grammar: the recipe of what training sees beside collected data.

A file of `injection_recipe/` holds lists (`@name`, one phrase a line) and sets (`= name count`, one pattern a line). In a
pattern `<name>` is one phrase of a list and `(a|b|)` one of these, nested as deep as one likes; `\\(` is a bracket,
`\\n` a line break. The same file gives
the same texts on every machine: the only source of chance is a linear congruential generator of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "injection_recipe"


class Dice:
    """Knuth's MMIX generator (TAOCP 2, 3.3.4): the same numbers under every version of Python."""

    def __init__(self, seed: int) -> None:
        self._state = seed
        for _ in range(8):
            self.below(2)

    def below(self, sides: int) -> int:
        """A number from 0 to `sides` - 1."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self._state >> 33) % sides


class Grammar:
    """One file, read."""

    def __init__(self, path: Path) -> None:
        self.lists: dict[str, list[str]] = {}
        self.sets: dict[str, tuple[int, list[str]]] = {}
        into: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# ") or not line:
                continue
            if line.startswith("@"):
                into = self.lists.setdefault(line[1:], [])
            elif line.startswith("= "):
                name, count = line[2:].split()
                into = []
                self.sets[name] = (int(count), into)
            else:
                into.append(line)

    def expand(self, pattern: str, dice: Dice) -> str:
        """One text of a pattern."""
        return self._sequence(pattern, 0, dice, "")[0]

    def _sequence(self, pattern: str, at: int, dice: Dice, ends: str) -> tuple[str, int]:
        out: list[str] = []
        while at < len(pattern) and pattern[at] not in ends:
            character = pattern[at]
            if character == "(":
                chosen, at = self._choice(pattern, at + 1, dice)
                out.append(chosen)
                continue
            end = pattern.find(">", at)
            if character == "<" and pattern[at + 1 : end] in self.lists:
                phrases = self.lists[pattern[at + 1 : end]]
                out.append(self.expand(phrases[dice.below(len(phrases))], dice))
                at = end + 1
                continue
            if character == "\\":
                out.append("\n" if pattern[at + 1] == "n" else pattern[at + 1])
                at += 2
                continue
            out.append(character)
            at += 1
        return "".join(out), at

    def _choice(self, pattern: str, at: int, dice: Dice) -> tuple[str, int]:
        # Each alternative is expanded, whichever is chosen: what follows depends on the pattern alone.
        options: list[str] = []
        while True:
            text, at = self._sequence(pattern, at, dice, "|)")
            options.append(text)
            if pattern[at] == ")":
                return options[dice.below(len(options))], at + 1
            at += 1

    def texts(self, seed: int) -> Iterator[tuple[str, str]]:
        """The name of its set and each text, every text once, sentences with capitals in two of three."""
        dice = Dice(seed)
        seen: set[str] = set()
        for name, (count, patterns) in self.sets.items():
            for number in range(count):
                text = self.expand(patterns[number % len(patterns)], dice)
                text = " ".join(text.split(" ")).strip()
                if dice.below(3):
                    text = sentence_case(text)
                if text not in seen:
                    seen.add(text)
                    yield name, text


def sentence_case(text: str) -> str:
    """The first letter of each sentence as a capital."""
    out: list[str] = []
    capital = True
    for character in text:
        out.append(character.upper() if capital else character)
        if character.isalnum():
            capital = False
        elif character in ".!?\n":
            capital = True
    return "".join(out).replace(" i ", " I ").replace(" i'm ", " I'm ")
