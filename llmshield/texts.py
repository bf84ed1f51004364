"""Texts of a call: every string that a model reads, with its role and its place, wherever a dialect put it.

Rule: plugins propose edits; the chain alone writes, and a Text never shows its value in messages or `repr`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
"""`system` includes developer messages and instructions; `tool` covers definitions, names, arguments, results."""

TextKind: TypeAlias = Literal["prompt", "metadata"]
"""`prompt`: a model reads it. `metadata`: sent along, read by no model (`user`, `metadata`): PII rules only."""

Tree: TypeAlias = dict[str, Any]
"""A parsed JSON object."""

Path: TypeAlias = tuple[str | int, ...]

_ORDERED_NAMES = 64
"""Renaming in place costs the size of the object; in a wider one the new name goes to its end instead."""
_PLAIN_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-.$0123456789")


class Holder(Protocol):
    """What a Text belongs to: the call whose hook may propose edits."""

    texts: list[Text]
    sealed: list[Sealed]
    _proposals: list[Proposal]
    _renames: Renames | None


class Sealed:
    """A string leaf that is JSON itself (OpenAI's `function.arguments`): its inner tree is what guards see.

    When an edit changes the inner tree, `reseal` writes it back into the outer leaf.
    """

    __slots__ = ("_dumps", "dirty", "holder", "key", "tree")

    def __init__(self, tree: Any, holder: Any, key: Any, dumps: Callable[[Any], str]) -> None:
        self.tree = tree
        self.holder = holder
        self.key = key
        self.dirty = False
        self._dumps = dumps

    def reseal(self) -> None:
        """Write the inner tree back if it changed."""
        if self.dirty:
            self.holder[self.key] = self._dumps(self.tree)
            self.dirty = False


class Text:
    """One model-visible string inside a Call.

    `value` is the string as it stands (a number is shown as its JSON text); `place` a JSON pointer (RFC 6901)
    from the body's root; `replace` proposes an edit, in code points of `value`. A name (object key) is a Text
    as well, with `is_name`.
    """

    __slots__ = ("_call", "_holder", "_key", "_path", "_print", "_sealed", "is_name", "kind", "role")

    def __init__(
        self,
        call: Holder,
        role: Role,
        holder: Any,
        key: Any,
        path: Path,
        *,
        kind: TextKind = "prompt",
        is_name: bool = False,
        sealed: Sealed | None = None,
    ) -> None:
        self._call = call
        self.role: Role = role
        self.kind: TextKind = kind
        self._holder = holder
        self._key = key
        self._path = path
        self.is_name = is_name
        self._sealed = sealed
        self._print: tuple[str, bytes] | None = None

    @property
    def value(self) -> str:
        """The string that a guard judges."""
        if self.is_name:
            return str(self._key)
        value = self._holder[self._key]
        return value if type(value) is str else _number_text(value)

    def fingerprint(self, value: str) -> bytes:
        """`fingerprint(value)` of this text's `value`, made once for all guards that ask."""
        held = self._print
        if held is None or held[0] is not value:
            held = self._print = (value, fingerprint(value))
        return held[1]

    @property
    def place(self) -> str:
        """JSON pointer of the leaf; for a leaf of JSON inside a string, the pointer continues inside.

        Names that the client made up may be personal data themselves: what is no plain word is shown as `*`, and so
        is the last step of a name's own place, which is what was found there.
        """
        return "".join(f"/{escape(step)}" for step in self._steps())

    @property
    def param(self) -> str:
        """The place in the words of SDK errors: `messages[2].content`."""
        out = ""
        for step in self._steps():
            if isinstance(step, int):
                out += f"[{step}]"
            else:
                out += f".{step}" if out else step
        return out

    def _steps(self) -> list[str | int]:
        """The path as messages and records may show it."""
        steps = [shown(step) for step in self._path]
        if self.is_name and steps:
            steps[-1] = "*"
        return steps

    def replace(self, start: int, end: int, new: str) -> None:
        """Propose to put `new` in place of the code points `start:end`; spans of one hook may not overlap."""
        self._call._proposals.append(Edit(self, start, end, new))

    def set(self, new: str) -> None:
        """Propose a new value for the whole text."""
        self.replace(0, len(self.value), new)

    def _write(self, new: str) -> None:
        """Put the new value into the tree; the chain alone calls this."""
        if self.is_name:
            if self._call._renames is None:
                self._call._renames = Renames(self._call)
            self._key = self._call._renames.rename(self._holder, self._key, new)
        else:
            self._holder[self._key] = new
        if self._sealed is not None:
            self._sealed.dirty = True

    def _of(self, call: Holder) -> Text:
        """The same text, proposing to another call object (a snapshot for a thread)."""
        return Text(
            call, self.role, self._holder, self._key, self._path,
            kind=self.kind, is_name=self.is_name, sealed=self._sealed,
        )  # fmt: skip

    def __repr__(self) -> str:  # never the value
        return f"<Text {self.role} {self.place!r}>"


class Renames:
    """Renames object keys of one call: values follow their names, and two names masked alike stay two."""

    __slots__ = ("_followers", "_taken")

    def __init__(self, call: Holder) -> None:
        self._followers: dict[tuple[int, str], list[Text | Sealed]] = {}
        self._taken: dict[tuple[int, str], int] = {}
        for text in call.texts:
            if not text.is_name:
                self._followers.setdefault((id(text._holder), text._key), []).append(text)
        for sealed in call.sealed:
            self._followers.setdefault((id(sealed.holder), sealed.key), []).append(sealed)

    def rename(self, holder: dict[str, Any], old: str, wanted: str) -> str:
        """Give the value of `old` the name `wanted`, with a number behind it where that is taken; returns it."""
        if wanted == old:
            return old
        new = wanted
        while new in holder:
            count = self._taken[(id(holder), wanted)] = self._taken.get((id(holder), wanted), 1) + 1
            new = f"{wanted}_{count}"
        if len(holder) <= _ORDERED_NAMES:
            items = list(holder.items())
            holder.clear()
            for name, value in items:
                holder[new if name == old else name] = value
        else:
            holder[new] = holder.pop(old)
        followers = self._followers.pop((id(holder), old), [])
        for follower in followers:
            if isinstance(follower, Sealed):
                follower.key = new
            else:
                follower._key = new
        if followers:
            self._followers[(id(holder), new)] = followers
        return new


@dataclass(slots=True, frozen=True)
class Edit:
    """A proposal to change a text."""

    text: Text
    start: int
    end: int
    new: str


@dataclass(slots=True, frozen=True)
class Clamp:
    """A proposal to bound the answer, in output tokens for each choice."""

    tokens: int


@dataclass(slots=True, frozen=True)
class Rounds:
    """A proposal to bound how often the provider's own tools may run."""

    rounds: int


@dataclass(slots=True, frozen=True)
class Finding:
    """What a plugin saw, for metrics, headers and the decision record; never the text itself.

    `type` is a short constant (`US_SSN`, `instruction_override`), `action` what the plugin made of it
    (`flag`, `redact`, `block`, ...), `score` 0..1 or None, `place` a JSON pointer or channel name.
    """

    type: str
    action: str
    score: float | None = None
    place: str = ""
    count: int = 1


Proposal: TypeAlias = Edit | Clamp | Finding


_keyed = hashlib.sha256(secrets.token_bytes(64))


def fingerprint(text: str) -> bytes:
    """16 bytes that stand for a text: its SHA-256 under a random key of this process, cut."""
    made = _keyed.copy()
    made.update(text.encode("utf-8", "surrogatepass"))
    return made.digest()[:16]


class CleanTexts:
    """Texts that a guard has judged and found clean, so that it need not judge them again.

    A chat sends its system prompt, its tools and all that was said with every call; only the last message is new.
    Kept are fingerprints, never a text; at most `2 * size` of them, the last used. What is judged differently (by its
    role) is told apart by what the guard puts behind the fingerprint. One object for one guard under one policy: what is
    clean for it says nothing for another. May be used from threads.
    """

    __slots__ = ("_new", "_old", "_size")

    LEAST = 48
    """Characters from which a text is worth the hash; shorter ones are read as fast."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def __contains__(self, key: bytes) -> bool:
        if key in self._new:
            return True
        if key in self._old:
            self.add(key)
            return True
        return False

    def add(self, key: bytes) -> None:
        """Remember a key. When there are too many, the half that was not used for longest goes."""
        if len(self._new) >= self._size:
            self._old, self._new = self._new, set()
        self._new.add(key)

    def __repr__(self) -> str:
        return f"<CleanTexts {len(self._new) + len(self._old)}>"


def escape(step: str | int) -> str:
    """One step of a JSON pointer (RFC 6901, section 3)."""
    return str(step).replace("~", "~0").replace("/", "~1")


def shown(step: str | int) -> str | int:
    """A step of a path as messages and records may show it: a plain word, or `*`."""
    if isinstance(step, int) or (len(step) <= 40 and not step[:1].isdigit() and _PLAIN_NAME.issuperset(step)):
        return step
    return "*"


def _number_text(value: Any) -> str:
    """A number as its JSON text; guards read account numbers that were sent as numbers."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    return "null" if value is None else repr(value)
