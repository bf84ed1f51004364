"""JSON that arrives in pieces, rewritten leaf by leaf.

A tool call's arguments stream as JSON text, cut anywhere: inside `\\u00e9`, between the halves of a surrogate
pair, between digits. Filters must see decoded text, so each leaf goes through a pipe of its own:

- strings: decoded, fed as they arrive, escaped again behind the pipe;
- names of objects: the same, under the path of their object plus `NAME`;
- numbers, `true`, `false` and `null`: fed in one piece when complete; another text than their own is written as a string.

What no pipe changes comes out as it came in, byte for byte: white space, structure, and the spelling of escapes
(`\\/`, `\\u00e9`). From the first character that is not JSON on, everything goes as plain text through one pipe,
the one for the empty path: nothing is ever passed on unfiltered. Time is linear, memory bounded by what the
pipes hold back, by the depth and by the length of a number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from json.encoder import encode_basestring as _quote
from typing import Protocol

NAME = "~"
"""Last step in the path of an object's name; what follows it in a JSON pointer is no index and no name."""

_DEPTH = 256
_TOKEN = 512
"""Characters of a number; a longer one is no number that anybody reads."""
_NAME = 512
"""Characters of a name that go into paths; names are filtered at any length."""

_VALUE, _VALUE_OR_END, _NAME_OR_END, _NEXT_NAME, _COLON, _COMMA_OR_END, _DONE, _STRING, _WORD = range(9)
_BLANK = " \t\r\n"
_SIMPLE = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = frozenset("0123456789abcdefABCDEF")
_WORD_CHARS = frozenset("0123456789+-.eEtrufalsn")
_WORDS = frozenset(("true", "false", "null"))


class LeafPipe(Protocol):
    """Where the decoded text of one leaf goes through."""

    def feed(self, text: str) -> str: ...

    def flush(self) -> str: ...


class JsonPieces:
    """Rewrites JSON text piece by piece: each leaf, decoded, goes through its own pipe.

    `open_leaf(path)` returns the pipe for a leaf, or None to leave it alone.
    """

    __slots__ = (
        "_escape", "_fed", "_is_name", "_keys", "_name", "_odd", "_open_leaf", "_out", "_pipe", "_plain", "_released",
        "_state", "_token",
    )  # fmt: skip

    def __init__(self, open_leaf: Callable[[tuple[str | int, ...]], LeafPipe | None]) -> None:
        self._open_leaf = open_leaf
        self._state = _VALUE
        self._keys: list[str | int | None] = []
        """One entry for each open container: the index in an array, the name in an object (None before it)."""
        self._plain = False
        self._pipe: LeafPipe | None = None
        self._is_name = False
        self._name = ""
        self._escape = ""
        self._token = ""
        self._odd: deque[tuple[int, str, str]] = deque()
        """Characters of the open string that are not spelled as we would: position, character, spelling."""
        self._fed = 0
        self._released = 0
        self._out: list[str] = []
        """What the piece at hand has become so far."""

    def feed(self, text: str) -> str:
        """The next piece; returns JSON text that may go on now."""
        out: list[str] = []
        self._out = out
        if self._plain:
            return text if self._pipe is None else self._pipe.feed(text)
        position = 0
        while position < len(text):
            state = self._state
            if state == _STRING:
                position = self._string(text, position, out)
            elif state == _WORD:
                position = self._word(text, position, out)
            else:
                position = self._structure(text, position, out)
            if self._plain:
                rest = text[position:]
                out.append(rest if self._pipe is None else self._pipe.feed(rest))
                break
        return "".join(out)

    def flush(self) -> str:
        """The JSON ends here, complete or not."""
        out: list[str] = []
        self._out = out
        if self._plain:
            return "" if self._pipe is None else self._pipe.flush()
        if self._state == _STRING:
            self._end_leaf(out)
            out.append(self._escape)  # a cut escape: no character yet, so nothing that a filter could read
            self._escape = ""
        elif self._state == _WORD:
            self._end_word(out)
            if self._plain and self._pipe is not None:
                out.append(self._pipe.flush())
        self._state = _DONE
        return "".join(out)

    def so_far(self, last: str) -> str:
        """A pipe has just raised, letting go `last` words of its leaf: what the piece at hand had become, with them."""
        return "".join(self._out) + (last if self._plain else self._spell(last))

    def _structure(self, text: str, position: int, out: list[str]) -> int:
        char = text[position]
        if char in _BLANK:
            end = position + 1
            while end < len(text) and text[end] in _BLANK:
                end += 1
            out.append(text[position:end])
            return end
        state = self._state
        if char == '"' and state in (_VALUE, _VALUE_OR_END, _NAME_OR_END, _NEXT_NAME):
            self._begin_string(is_name=state in (_NAME_OR_END, _NEXT_NAME))
        elif char == ":" and state == _COLON:
            self._state = _VALUE
        elif char == "," and state == _COMMA_OR_END:
            key = self._keys[-1]
            if type(key) is int:
                self._keys[-1] = key + 1
                self._state = _VALUE
            else:
                self._state = _NEXT_NAME
        elif (char == "]" and state in (_VALUE_OR_END, _COMMA_OR_END) and type(self._keys[-1]) is int) or (
            char == "}"
            and (state == _NAME_OR_END or (state == _COMMA_OR_END and type(self._keys[-1]) is not int))
        ):
            self._keys.pop()
            self._after_value()
        elif char in "[{" and state in (_VALUE, _VALUE_OR_END) and len(self._keys) < _DEPTH:
            self._keys.append(0 if char == "[" else None)
            self._state = _VALUE_OR_END if char == "[" else _NAME_OR_END
        elif char in _WORD_CHARS and state in (_VALUE, _VALUE_OR_END):
            self._state = _WORD
            return position
        else:
            self._give_up()
            return position
        out.append(char)
        return position + 1

    def _after_value(self) -> None:
        self._state = _COMMA_OR_END if self._keys else _DONE

    def _path(self) -> tuple[str | int, ...]:
        return tuple(key for key in self._keys if key is not None)

    def _begin_string(self, *, is_name: bool) -> None:
        self._state = _STRING
        self._is_name = is_name
        self._name = ""
        self._fed = self._released = 0
        if is_name:
            self._keys[-1] = None
        path = self._path()
        self._pipe = self._open_leaf((*path, NAME) if is_name else path)

    def _string(self, text: str, position: int, out: list[str]) -> int:
        """Read on in a string, up to its end or the end of the piece."""
        decoded: list[str] = []
        length = len(text)
        quote = slash = -1
        while position < length:
            if self._escape:
                position = self._read_escape(text, position, decoded)
                if self._plain:
                    break
                continue
            if quote < position:
                quote = text.find('"', position)
                quote = length if quote < 0 else quote
            if slash < position:
                slash = text.find("\\", position)
                slash = length if slash < 0 else slash
            end = quote if quote < slash else slash
            if end > position:
                self._take(text[position:end], decoded)
                position = end
            elif end == quote:
                self._release(decoded, out)
                self._end_leaf(out)
                out.append('"')
                if self._is_name:
                    self._keys[-1] = self._name
                    self._state = _COLON
                else:
                    self._after_value()
                return position + 1
            else:
                self._escape = "\\"
                position += 1
        if self._plain:  # an escape that JSON does not have: what came before it still belongs to the leaf
            broken, self._escape = self._escape, ""
            self._plain = False
            self._release(decoded, out)
            self._end_leaf(out)
            self._give_up()
            out.append(broken if self._pipe is None else self._pipe.feed(broken))
            return position
        self._release(decoded, out)
        return position

    def _take(self, chunk: str, decoded: list[str]) -> None:
        """Plain characters of a string; raw control characters are against the rules but models write them."""
        if len(_quote(chunk)) != len(chunk) + 2:
            for offset, char in enumerate(chunk):
                if char < " ":
                    self._odd.append((self._fed + offset, char, char))
        decoded.append(chunk)
        self._fed += len(chunk)

    def _read_escape(self, text: str, position: int, decoded: list[str]) -> int:
        """One more character of an escape; a high surrogate waits for its other half."""
        char = text[position]
        escape = self._escape
        length = len(escape)
        if length == 1:
            if char == "u":
                self._escape = "\\u"
            elif char in _SIMPLE:
                self._decoded(_SIMPLE[char], escape + char, decoded)
                self._escape = ""
            else:
                self._plain = True
                return position
        elif length == 6 or length == 7:  # behind a high surrogate: `\u` of a low one, or it stays alone
            if char == ("\\" if length == 6 else "u"):
                self._escape = escape + char
            else:
                self._decoded("\ufffd", escape[:6], decoded)
                self._escape = escape[6:]
                return position
        elif char in _HEX:
            self._escape = escape + char
            if length == 5 or length == 11:
                self._complete(decoded)
        else:
            if length > 6:
                self._decoded("\ufffd", escape[:6], decoded)
                self._escape = escape[6:]
            self._plain = True
            return position
        return position + 1

    def _complete(self, decoded: list[str]) -> None:
        escape = self._escape
        code = int(escape[-4:], 16)
        low = 0xDC00 <= code < 0xE000
        if len(escape) == 12:
            if low:
                high = int(escape[2:6], 16)
                pair = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)
                self._decoded(chr(pair), escape, decoded)
                self._escape = ""
                return
            self._decoded("\ufffd", escape[:6], decoded)
            self._escape = escape = escape[6:]
        if 0xD800 <= code < 0xDC00:
            return
        self._decoded("\ufffd" if low else chr(code), escape, decoded)
        self._escape = ""

    def _decoded(self, char: str, spelling: str, decoded: list[str]) -> None:
        if _quote(char)[1:-1] != spelling:
            self._odd.append((self._fed, char, spelling))
        decoded.append(char)
        self._fed += 1

    def _release(self, decoded: list[str], out: list[str]) -> None:
        """Feed what was decoded and write what comes back."""
        if not decoded:
            return
        text = "".join(decoded)
        if self._is_name and len(self._name) < _NAME:
            self._name = (self._name + text)[:_NAME]
        out.append(self._spell(text if self._pipe is None else self._pipe.feed(text)))

    def _end_leaf(self, out: list[str]) -> None:
        """A string ends, closed or not."""
        if self._pipe is not None:
            out.append(self._spell(self._pipe.flush()))
        self._pipe = None
        self._odd.clear()

    def _spell(self, text: str) -> str:
        """Decoded text as it stands between quotes; a character that came in another spelling keeps it.

        Positions only line up while the pipe changes nothing. Behind a change the spelling may go to an equal
        character elsewhere, which says the same.
        """
        odd = self._odd
        start, end = self._released, self._released + len(text)
        self._released = end
        if not odd or odd[0][0] >= end:
            return _quote(text)[1:-1]
        out: list[str] = []
        done = 0
        while odd and odd[0][0] < end:
            place, char, spelling = odd.popleft()
            place -= start
            if place >= done and text[place] == char:
                out.append(_quote(text[done:place])[1:-1])
                out.append(spelling)
                done = place + 1
        out.append(_quote(text[done:])[1:-1])
        return "".join(out)

    def _word(self, text: str, position: int, out: list[str]) -> int:
        """Read on in a number, or in true, false, null."""
        end = position
        while end < len(text) and text[end] in _WORD_CHARS:
            end += 1
        self._token += text[position:end]
        if len(self._token) > _TOKEN:
            self._give_up_word(out)
        elif end < len(text):
            self._end_word(out)
        return end

    def _end_word(self, out: list[str]) -> None:
        token = self._token
        if token not in _WORDS and not _is_number(token):
            self._give_up_word(out)
            return
        else:
            pipe = self._open_leaf(self._path())
            new = token if pipe is None else pipe.feed(token) + pipe.flush()
            out.append(token if new == token else _quote(new))
        self._token = ""
        self._after_value()

    def _give_up_word(self, out: list[str]) -> None:
        token, self._token = self._token, ""
        self._give_up()
        out.append(token if self._pipe is None else self._pipe.feed(token))

    def _give_up(self) -> None:
        """No JSON from here on: one plain pipe for all that follows."""
        self._plain = True
        self._pipe = self._open_leaf(())


def _is_number(token: str) -> bool:
    """JSON's grammar of numbers (RFC 8259, section 6)."""
    digits = token.removeprefix("-")
    mantissa, mark, exponent = digits.replace("E", "e").partition("e")
    whole, dot, fraction = mantissa.partition(".")
    if not whole.isdigit() or (len(whole) > 1 and whole[0] == "0") or (dot and not fraction.isdigit()):
        return False
    return not mark or exponent[exponent[:1] in ("+", "-") :].isdigit()
