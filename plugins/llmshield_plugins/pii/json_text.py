"""Whether a text that arrives in pieces is JSON, and stands inside a string of it just now.

A model that answers in JSON writes `{"note": "<STREET_ADDRESS_1>"}` into plain content: a value with a quote or a line
break in it would break what the client parses. Only a text whose first sign opens an object or a list counts (a Markdown
fence may stand before it).
"""

from __future__ import annotations

import re

_HEAD = re.compile(r"\s*(?:```[a-zA-Z]*\s*)?")
_STRING = re.compile(r'[^"\\]+|\\.|"', re.DOTALL)
_LONGEST_HEAD = 64


class JsonText:
    """Reads along. `in_string`: a string has begun and has not ended."""

    __slots__ = ("_escaped", "_head", "_is_json", "in_string")

    def __init__(self) -> None:
        self.in_string = False
        self._head = ""
        self._is_json: bool | None = None
        self._escaped = False

    def feed(self, text: str) -> None:
        """The next piece."""
        if self._is_json is None:
            text = self._head + text
            end = _HEAD.match(text)
            rest = text[end.end() :] if end is not None else text
            if (not rest or rest[0] == "`") and len(text) < _LONGEST_HEAD:
                self._head = text
                return
            self._is_json = rest[:1] in ("{", "[")
            self._head, text = "", rest
        if not self._is_json:
            return
        if self._escaped and text:
            text, self._escaped = text[1:], False
        for match in _STRING.finditer(text):
            if match.group() == '"':
                self.in_string = not self.in_string
        trailing = len(text) - len(text.rstrip("\\"))
        self._escaped = trailing % 2 == 1
