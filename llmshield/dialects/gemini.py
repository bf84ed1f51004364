"""Google's Gemini API: `models/{model}:generateContent` and its sisters, below `/v1beta`, `/v1` or nothing.

The model stands in the path. `models/x` and `publishers/google/models/x` (Vertex express mode) are the model `x`;
`tunedModels/x` keeps its prefix, so that a policy can tell it apart. Full Vertex paths (`projects/...`) are not
served. A stream comes as server-sent events with `alt=sse`, else as a JSON array; the provider is asked for the
same form. The key travels in `x-goog-api-key`, never in the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import re2

from llmshield.call import Call, Channel, Operation, Tree, Usage
from llmshield.dialects import Dialect, StreamCodec, WholeReply, WireReply, WireRequest, _gemini
from llmshield.dialects._gemini import UsageMeter, error_in_reply, finish_kind
from llmshield.dialects._gemini_pieces import NOT_TEXT, Spoken, choice_of, searches_of
from llmshield.dialects._gemini_stream import GeminiStream
from llmshield.dialects._gemini_texts import read_texts
from llmshield.dialects._pieces import other_pieces
from llmshield.dialects._tree import refuse
from llmshield.dialects._wire import too_deep, without_credentials
from llmshield.errors import CallError, UpstreamError, WireError
from llmshield.verdicts import Answer

METHODS: dict[str, Operation] = {
    "generateContent": "generate",
    "streamGenerateContent": "generate",
    "countTokens": "count_tokens",
    "embedContent": "embed",
    "batchEmbedContents": "embed",
}

_PATH = re2.compile(
    r"(/v1beta|/v1|)/(publishers/google/models/|models/|tunedModels/)([A-Za-z0-9._@-]+):([A-Za-z]+)"
)
_LIST = re2.compile(r"(/v1beta|/v1|)/(?:models|tunedModels)(?:/([A-Za-z0-9._@-]+))?")
_TUNED = "tunedModels/"
_CONFIG = ("generationConfig", "generation_config")
_BOUND = ("maxOutputTokens", "max_output_tokens")


class Gemini(Dialect):
    """See Dialect."""

    name = "gemini"
    family = "gemini"

    def claims(self, method: str, path: str, headers: Mapping[str, str]) -> Operation | None:
        if method == "POST":
            named = _split(path)
            return METHODS.get(named[3]) if named else None
        if method not in ("GET", "HEAD"):
            return None
        found = _listed(path)
        # /v1/models is OpenAI's and Anthropic's as well: there the key tells.
        if found and (found[0] == "/v1beta" or "x-goog-api-key" in headers):
            return "models"
        return None

    def read_call(self, id: str, operation: Operation, request: WireRequest, tree: Tree) -> Call:
        call = Call(
            id=id,
            dialect=self.name,
            family=self.family,
            operation=operation,
            model="",
            body=tree,
            headers=request.headers,
            method=request.method,
            path=request.path,
            query=request.query,
        )
        named = _split(request.path)
        if named is None:
            call.model = (_listed(request.path) or ("", ""))[1]
            return call
        _, place, model, method = named
        call.model = _TUNED + model if place == _TUNED else model
        call.stream = method == "streamGenerateContent"
        alt = form_of(request.query)
        if alt not in ("", "json", "sse") or (alt == "sse" and not call.stream):
            raise WireError("The query asks for an 'alt' that can't be served here; 'sse' needs a stream.")
        _check_models(tree, call.model)
        read_texts(call, tree)
        if operation == "generate":
            call.output_bound = self.bound(tree)
            call.choices = _number(_config(tree), ("candidateCount", "candidate_count")) or 1
        return call

    def write_call(self, call: Call, model: str) -> Tree:
        body = dict(call.body)
        if "model" in body:
            body["model"] = _resource(model)
        if call.operation == "embed" and type(body.get("requests")) is list:
            body["requests"] = [{**one, "model": _resource(model)} for one in body["requests"]]
        for name in ("generateContentRequest", "generate_content_request"):
            if type(body.get(name)) is dict and "model" in body[name]:
                body[name] = {**body[name], "model": _resource(model)}
        return body

    def target(self, call: Call, model: str) -> tuple[str, str]:
        query = without_credentials(call.query)
        named = _split(call.path)
        if named is None:
            return call.path, query
        version, place, _, method = named
        if model.startswith(_TUNED):
            place, model = _TUNED, model[len(_TUNED) :]
        elif place == _TUNED:
            place = "models/"
        return f"{version or '/v1beta'}/{place}{model}:{method}", query

    def bound(self, body: Tree) -> int | None:
        """`maxOutputTokens`; thoughts count into it. 0 is protobuf's word for "not set"."""
        return _number(_config(body), _BOUND) or None

    def clamp(self, body: Tree, tokens: int) -> None:
        """Lower `maxOutputTokens`. The thinking budget stays: the API cuts thoughts at the same bound."""
        bound = self.bound(body)
        if bound is not None and bound <= tokens:
            return
        name = next((name for name in _CONFIG if name in body), _CONFIG[0])
        config = dict(_config(body))
        key = next((key for key in _BOUND if key in config), _BOUND[0])
        config[key] = max(tokens, 1)  # 0 would be no bound at all
        body[name] = config

    def read_reply(self, call: Call, tree: Any) -> WholeReply:
        """One object, or the chunks of a stream that came as a JSON array and was read whole."""
        chunks: list[Any] = tree if type(tree) is list and tree else [tree]
        for chunk in chunks:
            if type(chunk) is not dict:
                return _unusable(tree, "the provider's answer is no object")
            if "error" in chunk and not chunk.get("candidates"):
                if too_deep(chunk):
                    return _unusable(None, "the provider's error is nested too deeply")
                return WholeReply(tree, [], None, None, "", error_in_reply(chunk))
        if call.operation == "embed":
            meter = UsageMeter()
            meter.feed(chunks[0].get("usageMetadata"))
            return WholeReply(tree, [], meter.usage(), None, call.model)
        if call.operation != "generate":
            # Counting tokens and listing models cost nothing.
            return WholeReply(tree, [], Usage(input=0, output=0), None, call.model)
        if too_deep(chunks):
            return _unusable(None, "the provider's answer is nested too deeply")
        return _read_chunks(tree, chunks)

    def open_stream(self, call: Call) -> StreamCodec:
        return GeminiStream(call.id, call.model, array=form_of(call.query) != "sse")

    def answer(self, call: Call, answer: Answer) -> Tree:
        if call.operation == "count_tokens":
            return {"totalTokens": 0}
        if call.operation == "embed":
            raise CallError("no_provider", answer.text or "No provider is available.")
        content = {"parts": [{"text": answer.text}] if answer.text else [], "role": "model"}
        return {
            "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0},
            "modelVersion": answer.model or call.model,
            "responseId": call.id,
        }

    def answer_stream(self, call: Call, answer: Answer) -> bytes:
        codec = GeminiStream(call.id, call.model, array=form_of(call.query) != "sse")
        return codec.write_own(self.answer(call, answer)) + codec.finalise()

    def write_error(self, error: CallError, request_id: str) -> WireReply:
        return _gemini.write_error(error, request_id)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        return _gemini.read_error(status, headers, body)

    def credentials(self, key: str) -> dict[str, str]:
        return {"x-goog-api-key": key}


@lru_cache(1024)
def _split(path: str) -> tuple[str, str, str, str] | None:
    """(version prefix, collection, name, method) of a path that calls a model."""
    found = _PATH.fullmatch(path)
    return (found.group(1), found.group(2), found.group(3), found.group(4)) if found else None


def _listed(path: str) -> tuple[str, str] | None:
    """(version prefix, model or "") of a path that asks which models there are."""
    found = _LIST.fullmatch(path)
    return (found.group(1), found.group(2) or "") if found else None


def _resource(model: str) -> str:
    """The name of a model as bodies spell it."""
    return model if "/" in model else f"models/{model}"


@lru_cache(1024)
def form_of(query: str) -> str:
    """The form of the answer that the query asks for; Google also reads `$alt`."""
    found = ""
    for name, value in parse_qsl(query, keep_blank_values=True) if query else ():
        if name in ("alt", "$alt"):
            found = value.lower()
    return found


def _config(body: Tree) -> Tree:
    """generationConfig in either spelling. Raises: WireError when it is no object."""
    for name in _CONFIG:
        config = body.get(name)
        if config is not None:
            if type(config) is not dict:
                refuse(f"/{name}", "is no object")
            return config
    return {}


def _number(config: Tree, names: tuple[str, str]) -> int | None:
    """A whole number; protobuf's JSON also takes it as a string or as a float without a fraction."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if (type(value) is str and value.isascii() and value.isdigit() and len(value) < 11) or (
            type(value) is float and value.is_integer()
        ):
            value = int(value)
        if type(value) is not int or not 0 <= value < 2**31:
            refuse(f"/generationConfig/{name}", "is no whole number from 0")
        return value
    return None


def _check_models(tree: Tree, model: str) -> None:
    """Raises: WireError when a model in the body is another one than the path's: the policy judged the path's."""
    inner = tree.get("generateContentRequest", tree.get("generate_content_request"))
    requests = tree.get("requests")
    for one in (tree, inner, *(requests if type(requests) is list else ())):
        named = one.get("model") if type(one) is dict else None
        if named is None:
            continue
        if (
            type(named) is not str
            or named.removeprefix("publishers/google/").removeprefix("models/") != model
        ):
            raise WireError("The body names another model than the path.", "/model")


def _read_chunks(tree: Any, chunks: list[Tree]) -> WholeReply:
    reply = WholeReply(tree, [], None, None, "")
    meter = UsageMeter()
    spoken: dict[int, Spoken] = {}
    refused = False
    for chunk in chunks:
        candidates, feedback = chunk.get("candidates"), chunk.get("promptFeedback")
        refused = refused or (type(feedback) is dict and feedback.get("blockReason") is not None)
        if candidates is None and (type(feedback) is dict or len(chunks) > 1):
            candidates = []
        if type(candidates) is not list or any(type(one) is not dict for one in candidates):
            return _unusable(tree, "the provider's answer holds no candidates")
        for position, candidate in enumerate(candidates):
            choice = choice_of(candidate, position)
            if choice not in spoken:
                spoken[choice] = Spoken(choice)
            spoken[choice].read(reply.pieces, candidate)
            meter.searches = max(meter.searches, searches_of(candidate))
        other_pieces(reply.pieces, chunk, Channel("other"), NOT_TEXT, ("candidates", "usageMetadata"))
        meter.feed(chunk.get("usageMetadata"))
        model = chunk.get("modelVersion")
        reply.model = model if type(model) is str else reply.model
    for choice in sorted(spoken, reverse=True):
        one = spoken[choice]
        reply.pieces[:0] = one.pieces()
        reply.finish = finish_kind(one.reason, called=one.calls > 0) or reply.finish
        if len(chunks) > 1 and finish_kind(one.reason) is None:
            reply.error = UpstreamError("truncated", "The stream ended in the middle of the answer.")
    if refused:
        reply.finish = "content_filter"
    reply.usage = meter.usage()
    return reply


def _unusable(tree: Any, message: str) -> WholeReply:
    return WholeReply(tree, [], None, None, "", UpstreamError("malformed", message))
