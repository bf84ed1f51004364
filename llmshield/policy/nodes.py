"""YAML text -> a tree of nodes that know their place. The only file that talks to the YAML library.

Rule 1: data only. Tags, directives, merge keys and several documents are refused; a key is text, once.
Rule 2: everything is bounded: bytes, levels, values, and aliases after they are expanded.
Rule 3: numbers keep their spelling (`Float.text`), because money must not pass through a float.

Scalars resolve by the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema): `on`, `yes` and
`2027-01-31` are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from llmshield.policy.findings import Path
from llmshield.policy.masking import mask_tokens

MAX_BYTES = 256 * 1024
"""Room for a thousand tenants; the YAML library reads about a megabyte a second."""
MAX_LEVELS = 32
MAX_NODES = 20_000
MAX_ALIASES = 200
MAX_FINDINGS = 20
"""Of the text alone; a file with more is no policy, and reading on costs time."""

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
          "false": False, "False": False, "FALSE": False}  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_MAX_DIGITS = 40
_BRACKETS = re.compile(r"(?:[\[{][ \t]?){100}")
"""The library looks 1,024 characters ahead, in quadratic time over open brackets: 0.2 s without this."""


class Float(float):
    """A float that remembers how it was spelt."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Float:
        self = super().__new__(cls, text)
        self.text = text
        return self


@dataclass(slots=True)
class Node:
    """A value and where it stands; `line` and `column` from 1, `end` just behind it.

    `value` is a scalar, `dict[str, Node]` or `list[Node]`; `keys` are the nodes of a mapping's keys.
    """

    value: Any
    line: int
    column: int
    end: tuple[int, int]
    keys: dict[str, Node] = field(default_factory=dict)
    count: int = 1
    height: int = 1

    def __repr__(self) -> str:  # a value may be a secret that stands where none belongs
        return f"<Node {type(self.value).__name__} at {self.line}:{self.column}>"

    def plain(self) -> Any:
        """The value as plain Python data."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def find(self, path: Path) -> tuple[Node, Node, Path]:
        """The node at `path`, the node to point at, and the path as far as it exists.

        Steps that are not in the tree are passed over: validators name the branch of a union in theirs. A
        last step that is missing (a key that is required) points at the mapping it is missing from.
        """
        node, mark, taken = self, self, []
        for step in path:
            if isinstance(node.value, dict) and isinstance(step, str) and step in node.value:
                mark = node.keys[step]
                node = node.value[step]
            elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
                node = mark = node.value[step]
            else:
                continue
            taken.append(step)
        return node, mark, tuple(taken)


TextCode: TypeAlias = Literal["LS101", "LS102", "LS103", "LS104", "LS105", "LS106", "LS107", "LS108", "LS109", "LS110", "LS112"]  # fmt: skip


@dataclass(slots=True, frozen=True)
class Flaw:
    """Something wrong with the text; becomes a Finding when the file's name and lines are at hand."""

    code: TextCode
    message: str
    line: int = 1
    column: int = 1
    hint: str = ""


class _Fatal(Exception):
    """Reading can't go on; carries the reason."""

    def __init__(self, flaw: Flaw) -> None:
        self.flaw = flaw


def decode(data: bytes) -> tuple[str, Flaw | None]:
    """The text in a file's bytes; with a flaw, what can be shown of it."""
    if len(data) > MAX_BYTES:
        return "", Flaw("LS102", f"found {len(data)} bytes, expected {MAX_BYTES} at the most")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "", Flaw("LS101", "found UTF-16, expected UTF-8", hint="save the file as UTF-8")
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        line = before.count(b"\n") + 1
        flaw = Flaw("LS101", "found bytes that are no UTF-8", line, column, "save the file as UTF-8")
        return data.decode("utf-8", "replace"), flaw


def read(text: str) -> tuple[Node | None, list[Flaw]]:
    """The tree in a policy's text, and every flaw of the text; never raises.

    Returns None for the tree where the text could not be read to its end.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES:
        return None, [Flaw("LS102", f"found {len(text)} characters, expected {MAX_BYTES} at the most")]
    if control := _CONTROL.search(text):
        start = control.start()
        line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
        what = "NUL" if control[0] == "\0" else f"the control character U+{ord(control[0]):04X}"
        hint = f'delete it, or write it as "\\u{ord(control[0]):04x}" in double quotes'
        return None, [Flaw("LS101", f"found {what}, expected text", line, column, hint)]
    if brackets := _BRACKETS.search(text):
        start = brackets.start()
        line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
        return None, [Flaw("LS106", f"found more than {MAX_LEVELS} levels inside each other", line, column)]
    reader = _Reader(text)
    try:
        return reader.read(), reader.flaws
    except _Fatal as fatal:
        return None, [*reader.flaws, fatal.flaw]


class _Reader:
    """Builds nodes from parser events; recursion is bounded by MAX_LEVELS."""

    def __init__(self, text: str) -> None:
        self.flaws: list[Flaw] = []
        self._events = self._parse(text)
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0
        self._aliases = 0

    def read(self) -> Node:
        root: Node | None = None
        for event in self._events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                if event.version or event.tags:
                    self._note("LS107", "found a YAML directive, expected none", event)
                if root is not None:
                    self._fail(
                        "LS107", "found a second YAML document, expected one", event, "delete the line `---`"
                    )
            elif kind == "MappingStartEvent":
                root = self._node(event, 1)
            elif kind == "SequenceStartEvent" or (kind == "ScalarEvent" and event.value not in _WORDS):
                what = "a list" if kind == "SequenceStartEvent" else "a single value"
                self._fail("LS108", f"found {what}, expected keys such as `version: 1`", event)
        if root is None:
            raise _Fatal(Flaw("LS108", "found an empty policy", hint="start with `version: 1`"))
        return root

    def _parse(self, text: str) -> Iterator[Any]:
        """Events of the text; whatever the library raises is a flaw with a place.

        Hostile text makes the library raise more than its own errors (IndexError, ValueError): all of them
        mean that this is no YAML, so all are caught here, and the policy is refused.
        """
        last: Any = None
        try:
            for last in YAML(typ="safe", pure=True).parse(text):
                yield last
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join(part for part in (error.context, error.problem) if part)
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise _Fatal(
                Flaw("LS103", problem or "no YAML", line, column, _syntax_hint(text, line))
            ) from None
        except (
            YAMLError,
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            line, column = (last.end_mark.line + 1, last.end_mark.column + 1) if last is not None else (1, 1)
            raise _Fatal(Flaw("LS103", f"no YAML ({type(error).__name__})", line, column)) from None

    def _node(self, event: Any, level: int) -> Node:
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._alias(event, level)
        self._count(1, event)
        if level > MAX_LEVELS:
            self._too_deep(event)
        anchor = event.anchor
        if anchor:
            self._anchors[anchor] = None  # held open: an alias inside its own anchor has no end
        if event.tag is not None:
            self._note(
                "LS105", f"found the tag {str(event.tag)[:40]!r}, expected none", event, "delete the tag"
            )
        end = (event.end_mark.line + 1, event.end_mark.column + 1)
        node = Node(None, event.start_mark.line + 1, event.start_mark.column + 1, end)
        if kind == "ScalarEvent":
            node.value = self._scalar(event)
        elif kind == "SequenceStartEvent":
            node.value = []
            while type(event := next(self._events)).__name__ != "SequenceEndEvent":
                item = self._node(event, level + 1)
                node.value.append(item)
                node.count += item.count
                node.height = max(node.height, item.height + 1)
        else:
            node.value = {}
            while type(event := next(self._events)).__name__ != "MappingEndEvent":
                self._pair(node, event, level)
        if anchor:
            self._anchors[anchor] = node
        return node

    def _pair(self, node: Node, event: Any, level: int) -> None:
        """One key and its value; a key that can't be used is noted, and its value read and dropped."""
        key = self._node(event, level + 1)
        value = self._node(next(self._events), level + 1)
        name = event.value if type(event).__name__ == "ScalarEvent" else None
        if name is None:
            self._note("LS109", "found a list, mapping or alias as a key, expected a name", event)
        elif name == "<<" and not event.style:
            hint = "repeat the keys; an alias for a whole value (`x: *name`) works"
            self._note("LS109", "found the merge key `<<`, which YAML 1.2 does not have", event, hint)
        elif name in node.value:
            first, what = node.keys[name].line, repr(mask_tokens(name)[:60])
            self._note(
                "LS104", f"found the key {what} twice, the first in line {first}", event, "keep one of them"
            )
        else:
            node.value[name] = value
            node.keys[name] = key
            node.count += 1 + value.count
            node.height = max(node.height, value.height + 1)

    def _alias(self, event: Any, level: int) -> Node:
        self._aliases += 1
        name = str(event.anchor)
        if self._aliases > MAX_ALIASES:
            self._fail("LS102", f"found more than {MAX_ALIASES} aliases", event)
        held = self._anchors.get(name)
        if held is None:
            where = "inside its own anchor" if name in self._anchors else "without its anchor"
            self._fail("LS110", f"found the alias {name[:40]!r} {where}", event)
        self._count(held.count, event)
        if level + held.height > MAX_LEVELS:
            self._too_deep(event)
        return held

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style or not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        number = _INT.fullmatch(text) or _FLOAT.fullmatch(text)
        if number is None:
            return text
        if len(text) > _MAX_DIGITS:
            self._note("LS112", f"found a number of {len(text)} characters", event, "quote it if it is text")
            return 0
        if _INT.fullmatch(text):
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        # YAML spells infinity `.inf`, Python `inf`; both are refused, so the spelling is only read.
        value = (
            Float(text.replace(".inf", "inf").lower()) if text[-1].isdigit() or text[-1] == "." else math.inf
        )
        if not math.isfinite(value):
            self._note("LS112", f"found {text}, expected a finite number", event)
            return 0
        return value

    def _count(self, count: int, event: Any) -> None:
        self._nodes += count
        if self._nodes > MAX_NODES:
            self._fail("LS102", f"found more than {MAX_NODES} values", event)

    def _note(self, code: TextCode, message: str, event: Any, hint: str = "") -> None:
        self.flaws.append(_flaw(code, message, event, hint))
        if len(self.flaws) >= MAX_FINDINGS:
            raise _Fatal(Flaw("LS103", f"stopped reading after {MAX_FINDINGS} findings", self.flaws[-1].line))

    def _too_deep(self, event: Any) -> NoReturn:
        self._fail("LS106", f"found more than {MAX_LEVELS} levels inside each other", event)

    def _fail(self, code: TextCode, message: str, event: Any, hint: str = "") -> NoReturn:
        raise _Fatal(_flaw(code, message, event, hint))


def _flaw(code: TextCode, message: str, event: Any, hint: str) -> Flaw:
    return Flaw(code, message, event.start_mark.line + 1, event.start_mark.column + 1, hint)


def _syntax_hint(text: str, line: int) -> str:
    """What usually stands behind a syntax error in this line."""
    lines = text.split("\n", line)
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())]:
        return "indent with blanks, not with tabs"
    if here.count(": ") > 1 and "{" not in here:
        return "quote a value that holds a colon and a blank"
    return ""
