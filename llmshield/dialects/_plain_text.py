"""An application's answer that is plain text: one text, whole or as it comes.

No pointer leads into it, so all of it is guarded: what an app's error page or log line says is not known before. It
carries no sign for its end either: what stops it is said in its last line.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping

from llmshield.call import Channel
from llmshield.dialects import Event, Piece, StreamCodec, WholeReply
from llmshield.errors import CallError, UpstreamError

CHANNEL = Channel("content")
_OTHERS = frozenset({"text/event-stream"})
_ASCII = bytes(range(128)).decode("ascii")


class Words(list[str]):
    """A text as the tree of an answer or an event: a list of one."""


class PlainText:
    """Text in one charset. `has_length` says that an answer came whole: such a one may still be JSON."""

    def __init__(self, charset: str, *, guarded: bool, has_length: bool) -> None:
        """Raises: UpstreamError `malformed` for a charset that is not known, or holds more than ASCII's characters in ASCII's bytes."""
        try:
            plain = _ASCII.encode(charset) == _ASCII.encode() and _ASCII.encode().decode(charset) == _ASCII
        except (LookupError, ValueError):
            plain = False
        if not plain:
            raise UpstreamError("malformed", "The app's text is in a charset that is not read; UTF-8 is.")
        self._charset = codecs.lookup(charset).name
        self._guarded = guarded
        self.has_length = has_length

    def read(self, data: bytes) -> str:
        """Raises: UpstreamError `malformed` for bytes that are no text in this charset."""
        try:
            return data.decode(self._charset)
        except UnicodeDecodeError:
            raise _broken() from None

    def write(self, text: str) -> bytes:
        """The text for the client; what its charset lacks becomes a question mark."""
        return text.encode(self._charset, "replace")

    def pieces(self, words: Words, *, whole: bool) -> list[Piece]:
        """Its one text, if the policy guards what the app says."""
        return [Piece(CHANNEL, words, 0, whole)] if self._guarded else []

    def reply(self, data: bytes) -> WholeReply:
        """A whole answer. Raises: UpstreamError `malformed`."""
        words = Words([self.read(data)])
        return WholeReply(words, self.pieces(words, whole=True), None, None, "")

    def stream(self) -> StreamCodec:
        return _TextStream(self, codecs.getincrementaldecoder(self._charset)())


class _TextStream(StreamCodec):
    """Text as it comes, in whole characters."""

    media_type = "text/plain"

    def __init__(self, of: PlainText, decoder: codecs.IncrementalDecoder) -> None:
        self._of = of
        self._decoder = decoder

    def feed(self, data: bytes) -> list[Event]:
        return self._read(data, final=False)

    def close(self) -> list[Event]:
        self.finished = True
        return self._read(b"", final=True)

    def _read(self, data: bytes, *, final: bool) -> list[Event]:
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError:
            return [Event(error=_broken())]
        words = Words([text])
        return [Event(tree=words, pieces=self._of.pieces(words, whole=False), output=True)] if text else []

    def write(self, event: Event) -> bytes:
        return self._of.write(event.tree[0])

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        return self._of.write(text)

    def finalise(self) -> bytes:
        return b""

    def stop(self, error: CallError) -> bytes:
        return self._of.write(f"\n\n[{error.message}]\n")

    def abort(self, error: CallError, request_id: str) -> bytes:
        return self.stop(error)


def is_plain_text(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind.startswith("text/") and kind not in _OTHERS


def charset(headers: Mapping[str, str]) -> str:
    """The charset that a content type names; UTF-8 where it names none."""
    for parameter in headers.get("content-type", "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"')
    return "utf-8"


def _broken() -> UpstreamError:
    return UpstreamError("malformed", "The app's text is not in the charset that it says.")
