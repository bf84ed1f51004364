"""Collects findings about one policy: knows its lines, where each value stands, and what must not be shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

from llmshield.policy.findings import CODES, HINTS, Finding, Path, did_you_mean, write_path
from llmshield.policy.masking import REFERENCE, is_secret_key, mask_line, mask_tokens
from llmshield.policy.nodes import Flaw, Node

MAX_FINDINGS = 200
"""A policy with more is no policy, and each costs time."""
_SHOWN = 160
"""Characters of a source line in a finding."""
_LONGEST = 2_000
"""A longer line is not shown: masking looks at the whole of it."""
_SUGGESTIONS = 300
"""Names that are compared for "did you mean"; each comparison costs about 10 microseconds."""


class Report:
    """The findings of one policy, in the order of their lines."""

    def __init__(self, file: str, text: str, root: Node | None = None) -> None:
        self.file = file
        self.root = root
        self._lines = text.split("\n")
        self._findings: dict[tuple[str, str, str, int, int], Finding] = {}
        self._failed = False
        self._shown: dict[int, str] = {}
        self._spoilt: set[tuple[int, int]] = set()
        self._secrets: dict[int, list[tuple[int, int]]] = {}
        if root is not None:
            self._collect_secrets(root)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, by line and column; at most 200."""
        found = sorted(self._findings.values(), key=lambda item: (item.line, item.column, item.code))
        return tuple(found)

    @property
    def failed(self) -> bool:
        """Whether any finding is an error."""
        return self._failed

    def add(
        self, code: str, path: Path, message: str, hint: str = "", at: Literal["key", "value"] = "value"
    ) -> None:
        """Note a finding about the value at `path`, or about its key.

        A path that does not exist points at the nearest thing that does; only the key that is missing stays in
        it. A value that YAML itself spoilt has its finding already and gets no second one.
        """
        line, column = self.place(path, at)
        if (line, column) in self._spoilt:
            return
        if self.root is not None:
            taken = self.root.find(path)[2]
            missing = code == "LS202" and len(taken) < len(path)
            path = (*taken, path[-1]) if missing else taken or path
        self._put(code, message, line, column, write_path(path), hint)

    def add_flaw(self, flaw: Flaw) -> None:
        """Note what is wrong with the text itself."""
        if flaw.code in ("LS105", "LS112"):
            self._spoilt.add((flaw.line, flaw.column))
        self._put(flaw.code, flaw.message, flaw.line, flaw.column, "", flaw.hint)

    def place(self, path: Path, at: Literal["key", "value"] = "value") -> tuple[int, int]:
        """Line and column of the value at `path`; of its key where the value is missing or spans lines."""
        if self.root is None:
            return 1, 1
        node, mark, _ = self.root.find(path)
        scalar = not isinstance(node.value, dict | list) and node.value is not None
        spot = node if scalar and at == "value" else mark
        return spot.line, spot.column

    def named(self, path: Path, words: list[str]) -> Path:
        """The path below `path` of the first key or value that is one of `words`; `path` itself without any.

        A plugin's validator speaks of the settings as a whole and quotes what it dislikes; this finds it.
        """
        if self.root is None or not words:
            return path
        node, _, taken = self.root.find(path)
        below: list[tuple[Path, Node]] = [(taken, node)]
        for place, inner in below:  # grows while it is walked: all of the tree below, level by level
            items: Iterable[tuple[str | int, Node]] = ()
            if isinstance(inner.value, dict):
                items = inner.value.items()
            elif isinstance(inner.value, list):
                items = enumerate(inner.value)
            below.extend(((*place, step), child) for step, child in items)
        for word in words:
            for place, inner in below[1:]:
                if word in (place[-1], inner.value):
                    return place
        return path

    def suggest(self, word: str, known: Iterable[str]) -> str:
        """ "did you mean 'x'?" for the nearest of `known`, else all of them if they are few, else ""."""
        if len(self._findings) >= MAX_FINDINGS:
            return ""
        names = list(islice(known, _SUGGESTIONS))
        few = f"known: {', '.join(sorted(names))}" if 0 < len(names) <= 20 else ""
        return did_you_mean(word, names) or few

    def line_of(self, path: Path) -> int:
        """The line at which the value at `path` starts."""
        return self.place(path)[0]

    def _put(self, code: str, message: str, line: int, column: int, path: str, hint: str) -> None:
        self._failed = self._failed or CODES[code][0] == "error"
        if len(self._findings) >= MAX_FINDINGS:
            return
        if not hint:
            top = re.match(r"[a-z_]+", path)
            hint = (
                HINTS.get(code) or f"policy.example.yaml shows {f'`{top[0]}`' if top else 'policies'} at work"
            )
        line = min(max(line, 1), len(self._lines))  # an unfinished text is reported one line behind its end
        source = self._source(line, column)
        message, path, hint = (_printable(mask_tokens(text)) for text in (message, path, hint))
        finding = Finding(code, message, self.file, line, column, path, source, hint)
        self._findings.setdefault((code, path, message, line, column), finding)

    def _source(self, line: int, column: int) -> str:
        """The line with its secrets masked; of a long one the part around the column."""
        if line not in self._shown:
            text = self._lines[line - 1]
            previous = self._lines[line - 2] if line > 1 and self.root is None else ""
            spans = tuple(self._secrets.get(line, ()))
            self._shown[line] = _printable(mask_line(text, spans, previous)) if len(text) <= _LONGEST else ""
        shown = self._shown[line]
        start = max(0, column - _SHOWN // 2) if len(shown) > _SHOWN else 0
        return ("…" if start else "") + shown[start : start + _SHOWN]

    def _collect_secrets(self, root: Node) -> None:
        """Remember where values stand whose key's name says that they are secrets."""
        for node in _scalars(root, is_secret_key):
            if node.value is None or isinstance(node.value, bool):
                continue
            if isinstance(node.value, str) and REFERENCE.match(node.value):
                continue
            end_line, end_column = node.end
            for line in range(node.line, min(end_line, len(self._lines)) + 1):
                start = node.column - 1 if line == node.line else 0
                end = end_column - 1 if line == end_line else len(self._lines[line - 1])
                if end > start:
                    self._secrets.setdefault(line, []).append((start, end))


def _scalars(root: Node, secret: Callable[[str], bool]) -> Iterator[Node]:
    """Every scalar below a key whose name is a secret's, at any depth; each node once, aliases included."""
    seen: set[tuple[int, bool]] = set()
    todo = [(root, False)]
    while todo:
        node, inside = todo.pop()
        if (id(node), inside) in seen:
            continue
        seen.add((id(node), inside))
        value: Any = node.value
        if isinstance(value, dict):
            todo.extend((child, inside or secret(key)) for key, child in value.items())
        elif isinstance(value, list):
            todo.extend((child, inside) for child in value)
        elif inside:
            yield node


def _printable(text: str) -> str:
    """The text with control, bidi and other invisible characters spelt out."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\t\n" else char.encode("unicode_escape").decode()
        for char in text
    )
