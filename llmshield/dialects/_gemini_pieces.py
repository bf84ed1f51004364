"""The texts of a Gemini reply or chunk: every string leaf is a piece, unless it is listed here.

A candidate's text is one channel, whatever parts it comes in; so are thoughts up to the next text. Thoughts behind it
are another channel: what is held of a thought has to be shown before the answer goes on, so that a stream could not
put a value together over that border, and a whole reply does not either. Each function call has its own channels.
Other strings (code, its output, citations, search results, unknown fields) are pieces that arrive whole.
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Channel
from llmshield.dialects import Piece
from llmshield.dialects._pieces import argument_pieces, other_pieces
from llmshield.dialects._surrogates import Halves, mend_tree

NOT_TEXT: dict[str, str] = {
    "role": "enum",
    "id": "id of a call",
    "mimeType": "enum",
    "language": "enum",
    "outcome": "enum",
    "level": "enum of mediaResolution",
    "mediaResolution": "enum",
    "mediaProcessing": "enum",
    "scheduling": "enum",
    "toolType": "enum",
    "contentLayers": "enums",
    "startOffset": "duration",
    "endOffset": "duration",
    "duration": "duration",
    "data": "bytes",
    "sdkBlob": "bytes",
    "thoughtSignature": "seal of the API over a thought",
    "continuationToken": "token of the API",
    "googleMapsWidgetContextToken": "token of the API",
    "encodedPolyline": "a route as numbers",
    "finishReason": "enum",
    "blockReason": "enum",
    "category": "enum of safetyRatings",
    "probability": "enum of safetyRatings",
    "severity": "enum of safetyRatings",
    "overwrittenThreshold": "enum of safetyRatings",
    "urlRetrievalStatus": "enum",
    "modality": "enum of usageMetadata",
    "trafficType": "enum of usageMetadata",
    "serviceTier": "enum of usageMetadata",
    "modelVersion": "name of a model",
    "modelStage": "enum",
    "retirementTime": "time stamp",
    "createTime": "time stamp",
    "responseId": "id of the reply",
    "placeId": "id of a place",
    "reviewId": "id of a review",
    "chunkId": "id of a chunk",
    "fileId": "id of a file",
    "mediaId": "id of a file",
    "sourceId": "id of a source",
    "logprobsResult": "spells the text again; goes when the text changes (see _gemini_stream)",
    "nullValue": "enum",
}
"""Leaves of the API's own making that show no text of model, user or web."""

REPEATS = ("logprobsResult", "groundingMetadata.groundingSupports")
"""What spells a candidate's text again, token by token or in segments with offsets."""

CALL_FIELDS = ("functionCall", "toolCall")


class JoinedText:
    """Several text parts of one candidate as one text, so that a value cut into two parts is seen whole.

    Read and written like a dict with one key; a changed text goes into the first part, the others are emptied.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: list[dict[str, Any]]) -> None:
        self._parts = parts

    def __getitem__(self, key: str) -> str:
        return "".join([part[key] for part in self._parts])

    def __setitem__(self, key: str, value: str) -> None:
        for part in self._parts:
            part[key] = ""
        self._parts[0][key] = value


def choice_of(candidate: dict[str, Any], position: int) -> int:
    """The candidate's number; protobuf drops a 0."""
    index = candidate.get("index")
    return index if type(index) is int else position


def is_text(part: dict[str, Any]) -> bool:
    """True for a part with a non-empty text."""
    return type(part.get("text")) is str and bool(part["text"])


def parts_of(candidate: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidate's parts, as far as they are objects."""
    content = candidate.get("content")
    parts = content.get("parts") if type(content) is dict else None
    return [part for part in parts if type(part) is dict] if type(parts) is list else []


def repeats_of(candidate: dict[str, Any]) -> tuple[tuple[Any, Any], ...]:
    """The places that spell the candidate's text again."""
    found: list[tuple[Any, Any]] = []
    if candidate.get("logprobsResult") is not None:
        found.append((candidate, "logprobsResult"))
    grounding = candidate.get("groundingMetadata")
    if type(grounding) is dict and grounding.get("groundingSupports"):
        found.append((grounding, "groundingSupports"))
    return tuple(found)


def searches_of(candidate: dict[str, Any]) -> int:
    """How many searches the provider made for a candidate; they are billed one by one."""
    grounding = candidate.get("groundingMetadata")
    queries = grounding.get("webSearchQueries") if type(grounding) is dict else None
    return len(queries) if type(queries) is list else 0


def whole_chunk(halves: Halves, tree: Any) -> Any:
    """A chunk with whole characters: a text, a thought or an argument may end with the first half of one."""
    candidates = tree.get("candidates") if type(tree) is dict else None
    for position, candidate in enumerate(candidates if type(candidates) is list else ()):
        if type(candidate) is not dict:
            continue
        choice = choice_of(candidate, position)
        for part in parts_of(candidate):
            if is_text(part):
                part["text"] = halves.join((choice, bool(part.get("thought"))), part["text"])
            call = part.get("functionCall")
            partial = call.get("partialArgs") if type(call) is dict else None
            for one in partial if type(partial) is list else ():
                if type(one) is dict and type(one.get("stringValue")) is str:
                    stream = (choice, str(one.get("jsonPath")))
                    one["stringValue"] = halves.join(stream, one["stringValue"])
    return mend_tree(tree)


class Spoken:
    """What a candidate says in a whole reply (or in all chunks of an array): parts with text, what repeats them,
    how many functions it calls, why it ended."""

    __slots__ = ("_answering", "calls", "choice", "reason", "shadows", "texts", "thoughts")

    def __init__(self, choice: int) -> None:
        self.choice = choice
        self.texts: list[dict[str, Any]] = []
        self.thoughts: list[list[dict[str, Any]]] = []
        """Thoughts with a text between them stand apart, as in a stream."""
        self._answering = True
        self.shadows: list[tuple[Any, Any]] = []
        self.calls = 0
        self.reason: Any = None

    def read(self, pieces: list[Piece], candidate: dict[str, Any]) -> None:
        """Take a candidate, or the next chunk of it."""
        for part in parts_of(candidate):
            if is_text(part):
                if not part.get("thought"):
                    self.texts.append(part)
                    self._answering = True
                else:
                    if self._answering:
                        self.thoughts.append([])
                        self._answering = False
                    self.thoughts[-1].append(part)
            if any(name in part for name in CALL_FIELDS):
                call_pieces(pieces, part, self.choice, self.calls)
                self.calls += 1
        self.shadows += repeats_of(candidate)
        self.reason = candidate.get("finishReason", self.reason)
        rest_pieces(pieces, candidate, self.choice)

    def pieces(self) -> list[Piece]:
        """The thoughts and the text, each as one piece."""
        found = [(Channel("reasoning", self.choice, n), parts) for n, parts in enumerate(self.thoughts)]
        if self.texts:
            found.append((Channel("content", self.choice), self.texts))
        shadows = tuple(self.shadows)
        return [
            Piece(channel, parts[0] if len(parts) == 1 else JoinedText(parts), "text", True, shadows=shadows)
            for channel, parts in found
        ]


def call_pieces(pieces: list[Piece], part: dict[str, Any], choice: int, index: int) -> None:
    """Name and arguments of a part's function call (arguments that come in pieces are read by the stream)."""
    for field in CALL_FIELDS:
        call = part.get(field)
        if type(call) is not dict:
            continue
        name = call.get("name")
        tool = name if type(name) is str and name else None
        if tool:
            pieces.append(Piece(Channel("tool_name", choice, index, (), tool), call, "name", True))
        if type(call.get("args")) is dict:
            argument_pieces(pieces, call["args"], Channel("tool_arguments", choice, index, (), tool))


def rest_pieces(pieces: list[Piece], candidate: dict[str, Any], choice: int, *, partial: bool = True) -> None:
    """All other strings of a candidate; `partial`: arguments that come in pieces as well (not where they stream)."""
    read = ("name", "args") if partial else ("name", "args", "partialArgs")
    channel = Channel("other", choice)
    other_pieces(pieces, candidate, channel, NOT_TEXT, ("content",))
    content = candidate.get("content")
    if type(content) is dict:
        other_pieces(pieces, content, channel, NOT_TEXT, ("parts",))
    for part in parts_of(candidate):
        if len(part) == 1 and "text" in part:
            continue
        other_pieces(pieces, part, channel, NOT_TEXT, ("text", *CALL_FIELDS))
        for field in CALL_FIELDS:
            if type(part.get(field)) is dict:
                other_pieces(pieces, part[field], channel, NOT_TEXT, read)
