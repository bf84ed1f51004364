"""Translators: one dialect read into `conversation` shapes and written from them. One file for each dialect.

A translator is one module with one public subclass of `Translator`; its name is the name of the dialect it
translates. N dialects need N of them: from one to another it always goes through the neutral shapes. Sans-I/O, like
dialects: trees and bytes in, trees and bytes out; one object serves all calls, a stream has a reader or writer of
its own.

What a dialect can't say is never dropped in silence. There are two kinds of it:

- `Conversation.lost`: a wish that the answer may miss (a penalty, a seed, a service tier). By the route's `on_loss`
  the call goes on and the record names it, or the target is passed over.
- `Conversation.missing`: a part of what the model was to read, or of the form of its answer. Such a translation is
  never sent: the answer would be one to another question.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from llmshield.call import Call, Tree
from llmshield.conversation import Answered, Begun, Conversation, Finished, Happening, Over
from llmshield.errors import CallError


class _Noting:
    """Has a list for what it has no word for: that of the attempt where there is one, else its own."""

    _lost: list[str] | None = None

    @property
    def lost(self) -> list[str]:
        """What was left out, as `place: why`."""
        if self._lost is None:
            self._lost = []
        return self._lost

    @lost.setter
    def lost(self, notes: list[str]) -> None:
        self._lost = notes


class Reader(_Noting, ABC):
    """A stream in this dialect, as what happens in it. Its bytes have been through the dialect's codec: they are
    whole events of a well-formed stream, cut anywhere."""

    @abstractmethod
    def feed(self, data: bytes) -> list[Happening]:
        """What these bytes say; what has no neutral word is left out and added to `lost`."""

    def aligned(self) -> bool:
        """Whether a writer that is told what was read here would have numbered its parts as this stream has."""
        return True


class Writer(_Noting, ABC):
    """What happens, as a stream in this dialect; what it can't say is added to `lost`."""

    media_type: ClassVar[str] = "text/event-stream"

    @abstractmethod
    def write(self, happening: Happening) -> bytes:
        """The bytes for a client; b"" where the dialect says nothing at this point."""

    answer_id: str = ""
    """The id that the client knows the answer by, where another stream had begun it."""

    def resume(self, begun: Begun) -> None:
        """The answer goes on from another provider; nothing of its head goes out."""
        self.write(begun)

    def catch_up(self, reader: Reader) -> None:  # most dialects number nothing
        """Number what follows behind what this reader has read."""

    def stop(self, error: CallError) -> bytes:
        """End the stream because a guard said so, with the dialect's own stop signal."""
        return self.write(Finished(0, "content_filter")) + self.write(Over())

    @abstractmethod
    def abort(self, error: CallError, request_id: str) -> bytes:
        """End the stream with an error that makes an SDK raise: the answer is not complete."""


class Translator(ABC):
    """One dialect's way into and out of the neutral shapes.

    `targets` is the family of providers that are asked in this dialect when a call of another family comes to them
    ("": none, another dialect of the family is), `headers` what such a request carries besides the key.
    """

    targets: ClassVar[str] = ""
    headers: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def read_conversation(self, call: Call) -> Conversation:
        """What a call in this dialect asks, as its guards have left it; `lost` and `missing` say what has no
        neutral word."""

    @abstractmethod
    def write_conversation(self, conversation: Conversation) -> Tree:
        """The body for a provider of this dialect; what it can't say is added to `lost` or `missing`."""

    @abstractmethod
    def route(self, conversation: Conversation) -> tuple[str, str]:
        """Path and query of such a request, as a client of this dialect would send it."""

    @abstractmethod
    def read_answer(self, tree: Tree) -> Answered:
        """A whole reply in this dialect."""

    @abstractmethod
    def write_answer(self, answered: Answered, call: Call) -> Tree:
        """A whole reply to `call`, which was asked in this dialect."""

    @abstractmethod
    def around_system(self, body: Tree, prefix: str, suffix: str) -> None:
        """Put words before and behind what the system says in a body; what is below its top level is copied."""

    def set_defaults(self, body: Tree, parameters: Mapping[str, Any]) -> None:
        """Set fields of a body that it lacks."""
        for name, value in parameters.items():
            body.setdefault(name, value)

    @abstractmethod
    def reader(self) -> Reader:
        """Reads one stream."""

    @abstractmethod
    def writer(self, call: Call) -> Writer:
        """Writes one stream, in answer to `call`, which was asked in this dialect."""
