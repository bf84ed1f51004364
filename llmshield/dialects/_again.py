"""Events of a stream that differ from the one before in a single text, read and written without parsing the rest.

Nearly all events of nearly all streams are such: the same object, with the next few characters in one place. What
was learned from one of them (`learn`) holds for bytes that have the same beginning and the same end, and between
them the inside of one JSON string: whatever that is, the object is the same but for this text. The learned form
is proved on the event itself before it is used.
"""

from __future__ import annotations

import orjson

from llmshield.call import Channel
from llmshield.dialects import Event, StreamCodec
from llmshield.dialects._sse import escape_lines
from llmshield.dialects._tree import dump

_MARK = "llmshield:the-text-goes-here"
_BLANKS = b" \t"


class Again:
    """The form of one event: what stands around its text in the provider's bytes, and in ours."""

    __slots__ = ("_alike", "_head", "_our_head", "_our_tail", "_tail", "channel")

    def __init__(self, channel: Channel, head: bytes, tail: bytes, our_head: bytes, our_tail: bytes) -> None:
        self.channel = channel
        self._head = head
        self._tail = tail
        self._our_head = our_head
        self._our_tail = our_tail
        self._alike = head == our_head and tail == our_tail

    def read(self, data: bytes) -> list[str] | None:
        """The texts of the events in these bytes, if they are whole and all of this form; else None."""
        head, tail = self._head, self._tail
        if not data.startswith(head) or not data.endswith(tail):
            return None
        first = data.find(b"\n\n")
        if first == len(data) - 2:
            if first + 2 < len(head) + len(tail):
                return None
            try:
                text = orjson.loads(b'"%b"' % data[len(head) : -len(tail)])
            except orjson.JSONDecodeError:  # a quote or a line break: not one text
                return None
            return [text]
        texts: list[str] = []
        begin, end = len(head), 2 - len(tail)
        short = tail[:-2]
        for event in data[:-2].split(b"\n\n"):
            if not event.startswith(head) or not event.endswith(short) or len(event) < begin - end:
                return None
            try:
                texts.append(orjson.loads(b'"%b"' % event[begin : end or None]))
            except orjson.JSONDecodeError:
                return None
        return texts

    def write(self, data: bytes, texts: list[str], shown: list[str]) -> bytes:
        """The events for the client: those in `data`, each with what is `shown` of its text; as many as are shown.

        The bytes are those that the codec would write, so that it makes no difference which events came together.
        """
        if self._alike and shown == texts and b"\\" not in data:  # an escape may be written in several ways
            return escape_lines(data)
        if len(shown) == 1:
            return escape_lines(b"%b%b%b" % (self._our_head, dump(shown[0])[1:-1], self._our_tail))
        out = bytearray()
        for text in shown:
            out += self._our_head
            out += dump(text)[1:-1]
            out += self._our_tail
        return escape_lines(bytes(out))


def learn(data: bytes, event: Event, codec: StreamCodec) -> Again | None:
    """The form of `event`, the last one in these bytes; None if it is not so simple as that."""
    before = data.rfind(b"\n\n", 0, max(0, len(data) - 2))
    if before >= 0:
        data = data[before + 2 :]
    if not event.again or event.ends or event.hidden or len(event.pieces) != 1:
        return None
    piece = event.pieces[0]
    if piece.whole or piece.repeats or piece.shadows or type(piece.key) is not str:
        return None
    payload = 0 if data.startswith(b"data: ") else data.find(b"\ndata: ") + 1
    if not data.startswith(b"data: ", payload) or data.find(b"\n", payload) != len(data) - 2 or b"\r" in data:
        return None
    start = _place(data, b'"%b"' % piece.key.encode())
    end = _closing(data, start) if start > 0 else -1
    if end < 0:
        return None
    head, tail = data[:start], data[end:]
    holder, key, text = piece.holder, piece.key, piece.holder[piece.key]
    holder[key] = _MARK
    try:
        tree = orjson.loads(b"%b%b%b" % (head[payload + 6 :], _MARK.encode(), tail[:-2]))
        if {name: tree[name] for name in tree if name in event.tree} != event.tree:
            return None  # the text stands somewhere else
        ours = codec.write(event).split(_MARK.encode())
    except orjson.JSONDecodeError:
        return None
    finally:
        holder[key] = text
    return Again(piece.channel, head, tail, ours[0], ours[1]) if len(ours) == 2 else None


def _place(data: bytes, name: bytes) -> int:
    """Where the string begins that stands under this name, if the name stands there once; else -1."""
    at = data.find(name)
    if at < 0 or data.find(name, at + 1) >= 0:
        return -1
    rest = data[at + len(name) : at + len(name) + 8].lstrip(_BLANKS)
    if not rest.startswith(b":") or not rest[1:].lstrip(_BLANKS).startswith(b'"'):
        return -1
    return data.index(b'"', at + len(name)) + 1


def _closing(data: bytes, start: int) -> int:
    """Where the string that begins at `start` is closed; -1 if nowhere."""
    at = start
    while (at := data.find(b'"', at)) >= 0:
        slashes = at
        while data[slashes - 1 : slashes] == b"\\":
            slashes -= 1
        if (at - slashes) % 2 == 0:
            return at
        at += 1
    return -1
