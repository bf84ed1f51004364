"""Anthropic's Messages API: `/v1/messages`, `/v1/messages/count_tokens`, and what clients ask beside it.

Claude Code opens with `HEAD /`; `/v1/models` belongs to whoever sends `anthropic-version`. The headers
`anthropic-version` and `anthropic-beta` and the query (`beta=true`) are the client's and travel unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmshield.call import Call, Channel, Operation, Tree, Usage
from llmshield.dialects import Dialect, StreamCodec, WholeReply, WireReply, WireRequest, _anthropic
from llmshield.dialects._anthropic import UsageMeter, error_in_reply, finish_kind
from llmshield.dialects._anthropic_own import own_message, own_stream
from llmshield.dialects._anthropic_pieces import add_others, block_pieces
from llmshield.dialects._anthropic_stream import MessagesStream
from llmshield.dialects._anthropic_texts import read_texts
from llmshield.dialects._other_models import other_models
from llmshield.dialects._tree import expect, refuse
from llmshield.dialects._wire import too_deep, without_credentials
from llmshield.errors import CallError, UpstreamError
from llmshield.verdicts import Answer

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
MODELS = "/v1/models"

MIN_THINKING = 1024
"""Anthropic refuses a smaller `thinking.budget_tokens`, and one that is not below `max_tokens`."""


_LIMITED = ("web_search_", "web_fetch_")
"""Server tools that take `max_uses`."""


class AnthropicMessages(Dialect):
    """See Dialect."""

    name = "anthropic_messages"
    family = "anthropic"

    def claims(self, method: str, path: str, headers: Mapping[str, str]) -> Operation | None:
        if method == "POST":
            return "generate" if path == MESSAGES else "count_tokens" if path == COUNT_TOKENS else None
        if method == "HEAD" and path == "/":
            return "passthrough"
        if method not in ("GET", "HEAD") or "anthropic-version" not in headers:
            return None
        one = path.startswith(MODELS + "/") and "/" not in path[len(MODELS) + 1 :]
        return "models" if one or path == MODELS else None

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
        if operation != "generate" and operation != "count_tokens":
            if operation == "models" and request.path != MODELS:
                call.model = request.path[len(MODELS) + 1 :]
            return call
        model = tree.get("model")
        if type(model) is not str or not model:
            refuse("/model", "is missing or no string")
        call.model = model
        call.other_models = other_models(tree)
        if operation == "generate":
            call.output_bound = self.bound(tree)
            stream = tree.get("stream")
            if stream is not None:
                call.stream = expect(stream, bool, "/stream", "true or false")
        if "messages" not in tree:
            refuse("/messages", "is missing")
        read_texts(call, tree)
        return call

    def write_call(self, call: Call, model: str) -> Tree:
        body = dict(call.body)
        if call.operation == "generate" or call.operation == "count_tokens":
            body["model"] = model
        return body

    def target(self, call: Call, model: str) -> tuple[str, str]:
        return call.path, without_credentials(call.query)

    def bound(self, body: Tree) -> int | None:
        """`max_tokens`; thinking counts into it (0 is a bound as well: it only fills the prompt cache)."""
        bound = body.get("max_tokens")
        if bound is None:
            return None
        if type(bound) is not int or bound < 0:
            refuse("/max_tokens", "is no whole number from 0")
        return bound

    def limit_rounds(self, body: Tree, rounds: int) -> None:
        """Put `max_uses` on searches and fetches of the web; the other server tools have no such word."""
        tools = body.get("tools")
        if type(tools) is list:
            body["tools"] = [
                {**tool, "max_uses": rounds}
                if type(tool) is dict
                and str(tool.get("type")).startswith(_LIMITED)
                and tool.get("max_uses") is None
                else tool
                for tool in tools
            ]

    def clamp(self, body: Tree, tokens: int) -> None:
        """Lower `max_tokens`, and a thinking budget that would not fit below it to half of it; where not even
        the smallest budget fits, thinking is switched off, since the API would refuse the call."""
        bound = self.bound(body)
        if bound is not None and bound <= tokens:
            return
        body["max_tokens"] = tokens
        thinking = body.get("thinking")
        if type(thinking) is not dict:
            return
        budget = thinking.get("budget_tokens")
        if type(budget) is not int or budget < tokens:
            return
        if tokens <= MIN_THINKING:
            body["thinking"] = {"type": "disabled"}
        else:
            body["thinking"] = {**thinking, "budget_tokens": max(MIN_THINKING, tokens // 2)}

    def read_reply(self, call: Call, tree: Any) -> WholeReply:
        if type(tree) is not dict:
            return _unusable(tree, "the provider's answer is no object")
        if tree.get("type") == "error" or ("error" in tree and "content" not in tree):
            if too_deep(tree):
                return _unusable(None, "the provider's error is nested too deeply")
            return WholeReply(tree, [], None, None, "", error_in_reply(tree))
        if call.operation != "generate":
            # Counting tokens and listing models cost nothing.
            return WholeReply(tree, [], Usage(input=0, output=0), None, call.model)
        if too_deep(tree):
            return _unusable(None, "the provider's answer is nested too deeply")
        blocks = tree.get("content")
        if type(blocks) is not list or any(type(block) is not dict for block in blocks):
            return _unusable(tree, "the provider's answer holds no content blocks")
        reply = WholeReply(tree, [], UsageMeter().feed(tree.get("usage")), None, "")
        reply.finish = finish_kind(tree.get("stop_reason"))
        model = tree.get("model")
        reply.model = model if type(model) is str else ""
        block_pieces(reply.pieces, blocks)
        add_others(reply.pieces, tree, Channel("other"), ("content", "usage"))
        return reply

    def open_stream(self, call: Call) -> StreamCodec:
        return MessagesStream(call.id, call.model)

    def answer(self, call: Call, answer: Answer) -> Tree:
        if call.operation == "count_tokens":
            return {"input_tokens": 0}
        content = [{"type": "text", "text": answer.text}] if answer.text else []
        return own_message(call.id, answer.model or call.model, content, "end_turn")

    def answer_stream(self, call: Call, answer: Answer) -> bytes:
        return own_stream(self.answer(call, answer))

    def write_error(self, error: CallError, request_id: str) -> WireReply:
        return _anthropic.write_error(error, request_id)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        return _anthropic.read_error(status, headers, body)

    def credentials(self, key: str) -> dict[str, str]:
        return _anthropic.credentials(key)


def _unusable(tree: Any, message: str) -> WholeReply:
    return WholeReply(tree, [], None, None, "", UpstreamError("malformed", message))
