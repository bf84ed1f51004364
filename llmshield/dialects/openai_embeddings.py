"""OpenAI embeddings: POST /v1/embeddings.

Input as token ids can't be read by a guard: it is marked unseen (`token_ids`), and the policy decides. A reply
holds numbers (or base64 of them), no text. Streams do not exist here; a `stream` flag is dropped.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from llmshield.call import Call, Channel, Operation, Path, Role, Tree
from llmshield.dialects import Event, Piece, StreamCodec, WholeReply, WireRequest
from llmshield.dialects._openai import (
    OpenAIDialect,
    base_call,
    malformed,
    merge_usage,
    read_usage,
    upstream_error,
)
from llmshield.dialects._openai_codec import OpenAICodec, other_pieces
from llmshield.dialects._openai_texts import TOKEN, Fields, mark, metadata, read_body
from llmshield.dialects._tree import add_text, refuse, walk_value
from llmshield.errors import CallError
from llmshield.verdicts import Answer

NOT_TEXT: dict[str, str] = {
    "/model": "names the model; routing reads it",
    "/encoding_format": "enum",
}
"""String leaves that no model reads, with the reason; only while they look like a token (`_tree.is_token`)."""

NOT_TEXT_REPLY: dict[str, str] = {
    "/object": "constant",
    "/model": "name of the model",
    "/data/*/object": "constant",
    "/data/*/embedding": "numbers in base64",
}
"""The same for replies."""

_REPLY_KEYS = frozenset(("object", "model", "data", "usage", "id"))


class OpenAIEmbeddings(OpenAIDialect):
    """Embeddings."""

    name: ClassVar[str] = "openai_embeddings"
    endpoint: ClassVar[str] = "/embeddings"
    operation: ClassVar[Operation] = "embed"

    def read_call(self, id: str, operation: Operation, request: WireRequest, tree: Tree) -> Call:
        call = base_call(self, id, operation, request, tree)
        call.stream = False
        call.output_bound = 0
        if tree.get("input") is None:
            refuse("/input", "is missing; a string or a list was expected")
        read_body(call, tree, _TOP)
        return call

    def write_call(self, call: Call, model: str) -> Tree:
        body = dict(call.body)
        body["model"] = model
        body.pop("stream", None)
        return body

    def bound(self, body: Tree) -> int | None:
        return 0

    def clamp(self, body: Tree, tokens: int) -> None:
        """Nothing to bound: an embedding has no output tokens."""

    def read_reply(self, call: Call, tree: Any) -> WholeReply:
        if type(tree) is not dict:
            return WholeReply(tree, [], None, None, "", malformed("is no JSON object"))
        usage = read_usage(tree.get("usage"))
        if usage is not None and usage.output is None:
            usage.output = 0
        model = tree.get("model")
        model = model if type(model) is str else ""
        if tree.get("error"):
            return WholeReply(tree, [], usage, None, model, upstream_error(tree))
        data = tree.get("data")
        if type(data) is not list or not all(type(entry) is dict for entry in data):
            return WholeReply(tree, [], usage, None, model, malformed("has no data"))
        pieces: list[Piece] = []
        for index, entry in enumerate(data):
            for key in entry:
                if key not in ("object", "index", "embedding"):
                    other_pieces(pieces, entry, key, 0, (key,), index=index)
        for key in tree.keys() - _REPLY_KEYS:
            other_pieces(pieces, tree, key, 0, (key,))
        return WholeReply(tree, pieces, usage, "stop", model)

    def open_stream(self, call: Call) -> StreamCodec:
        return _NoStream(call)

    def answer(self, call: Call, answer: Answer) -> Tree:
        """Raises: CallError, always: a text is no embedding."""
        _no_answer()

    def answer_stream(self, call: Call, answer: Answer) -> bytes:
        """Raises: CallError, always."""
        _no_answer()


class _NoStream(OpenAICodec):
    """For a provider that streams where nobody asked it to: the reply can't be used."""

    def _read(self, event: Event, tree: Tree) -> None:
        event.error = malformed("is a stream; embeddings do not stream")

    def _usage(self, tree: Tree) -> None:
        self.usage = merge_usage(self.usage, read_usage(tree.get("usage")))

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        return b""

    def finalise(self) -> bytes:
        return b""

    def stop(self, error: CallError) -> bytes:
        return self.abort(error, self._call.id)


def _no_answer() -> NoReturn:
    raise CallError("no_provider", "No provider can answer, and a text can't stand in for an embedding.")


def _input(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if type(value) is str:
        add_text(call, role, holder, key, path)
        return
    if type(value) is not list:
        refuse("/input", "must be a string or a list")
    for index, entry in enumerate(value):
        if type(entry) is str:
            add_text(call, role, value, index, (*path, index))
        elif type(entry) is int or (type(entry) is list and all(type(token) is int for token in entry)):
            mark(call, "token_ids")
            if type(entry) is int:
                if not all(type(token) is int for token in value):
                    refuse("/input", "mixes token ids with other values")
                return
        else:
            walk_value(call, role, value, index, (*path, index), numbers=True)


_TOP: Fields = {
    "input": _input,
    "user": metadata,
    "metadata": metadata,
    **dict.fromkeys(("model", "encoding_format", "dimensions", "stream"), TOKEN),
}
