"""One conversation while it happens: what each attempt's reply says, and at the end what of it is kept."""

from __future__ import annotations

from collections.abc import Iterable

from llmshield.call import Attempt, Call, Channel, Hear, Listener, Reply

Texts = list[list[str]]
"""[role, place, words] each."""


class Heard:
    """What one attempt's reply said, up to `room` characters; `cut` are those beyond it. Without `words` only how it
    ended is of interest."""

    __slots__ = ("_passages", "_room", "_words", "attempt", "cut")

    def __init__(self, attempt: Attempt, room: int, *, words: bool) -> None:
        self.attempt = attempt
        self.cut = 0
        self._words = words
        self._room = room
        self._passages: dict[Channel, list[list[str]]] = {}

    def __call__(self, channel: Channel) -> Hear | None:
        """An ear for one channel; a channel that begins anew goes on behind what it has said, or says it again."""
        if not self._words or channel.kind == "echo":
            return None
        passage: list[str] = []
        self._passages.setdefault(channel, []).append(passage)

        def hear(text: str) -> None:
            room = self._room
            if room >= len(text):
                passage.append(text)
                self._room = room - len(text)
                return
            if room:
                passage.append(text[:room])
                self._room = 0
            self.cut += len(text) - room

        return hear

    def texts(self) -> Texts:
        """What was said, channel by channel."""
        said = [("output", str(channel), _joined(passages)) for channel, passages in self._passages.items()]
        return [list(each) for each in said if each[2]]


class Story:
    """Everything of one call that may be kept."""

    __slots__ = ("_call", "_heard", "_roles", "_room", "began", "erasures", "source")

    def __init__(
        self, call: Call, roles: frozenset[str], room: int, source: str, began: float, erasures: int
    ) -> None:
        self._call = call
        self._roles = roles
        self._room = room
        self._heard: list[Heard] = []
        self.source = source
        self.began = began
        self.erasures = erasures

    def begin(self, attempt: Attempt) -> Listener:
        """An attempt's reply begins."""
        heard = Heard(attempt, self._room, words="output" in self._roles)
        self._heard.append(heard)
        return heard

    def replies(self) -> list[Heard]:
        """What the client has got: of attempts that went well; else of the last one that was not refused. A guard's
        refusal leaves nothing."""
        good = [heard for heard in self._heard if heard.attempt.outcome == "ok"]
        if good:
            return good
        cut = [heard for heard in self._heard if heard.attempt.outcome in {"failed", "cancelled"}]
        if not cut or any(heard.attempt.outcome == "blocked" for heard in self._heard):
            return []
        return cut[-1:]

    def request(self) -> tuple[Texts, int]:
        """What the provider was told, in its order, and how many characters of it are left out: of tools first (their
        definitions come with every call), and of the rest the oldest."""
        texts = [text for text in self._call.prompts() if text.role in self._roles]
        kept: list[str] = [""] * len(texts)
        room, cut = self._room, 0
        for place in sorted(range(len(texts)), key=lambda at: (texts[at].role == "tool", -at)):
            value = texts[place].value
            kept[place] = value[-room:] if room else ""
            cut += len(value) - len(kept[place])
            room -= len(kept[place])
        return [[text.role, text.place, words] for text, words in zip(texts, kept, strict=True) if words], cut

    def about(self, reply: Reply, heard: Iterable[Heard], cut: int) -> dict[str, object]:
        """What is known of the conversation besides its words."""
        usage = reply.usage
        return {
            "dialect": self._call.dialect,
            "model": self._call.model,
            "answered_model": reply.model,
            "provider": reply.provider,
            "stream": reply.stream,
            "complete": reply.finish is not None,
            "finish": reply.finish,
            "consent": self.source,
            "cut": {"request": cut, "reply": sum(each.cut for each in heard)},
            "input_tokens": usage.input if usage is not None else None,
            "output_tokens": usage.output if usage is not None else None,
        }


def _joined(passages: list[list[str]]) -> str:
    """The words of a channel that may have begun several times. A provider that sends the whole text again at the
    end says it once."""
    said = ""
    for passage in passages:
        words = "".join(passage)
        said = words if words.startswith(said) else said + words
    return said
