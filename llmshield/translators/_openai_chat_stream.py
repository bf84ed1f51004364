"""Streams of chat completions, into and out of happenings."""

from __future__ import annotations

from typing import Any

import orjson

from llmshield.call import Call, FinishKind, Tree, Usage
from llmshield.conversation import (
    Begun,
    Finished,
    Happening,
    Metered,
    Over,
    PartBegun,
    PartEnded,
    PartGrew,
)
from llmshield.dialects._openai import FINISH as FINISHES
from llmshield.dialects._openai import created, error_object, read_usage
from llmshield.dialects._sse import SseParser, write_event
from llmshield.errors import CallError
from llmshield.translators import Reader, Writer
from llmshield.translators._json import SIGNATURE, STOP_SEQUENCE, items, note, object_of, text, whole

DONE = b"data: [DONE]\n\n"
_FINISH: dict[FinishKind, str] = {"error": "stop", "other": "stop"}
_FIELDS = (
    ("reasoning_content", "reasoning"),
    ("reasoning", "reasoning"),
    ("content", "text"),
    ("refusal", "refusal"),
)


class ChatReader(Reader):
    """A stream of chunks. Parts have no borders of their own in it: one ends where the next of its choice begins."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self._begun = False
        self._open: dict[int, tuple[str, int]] = {}
        """Per choice: what kind of text stands open, and its part's number."""
        self._calls: dict[int, dict[int, int]] = {}
        """Per choice: the parts of its calls, by their index. All stand open until the choice ends: some servers
        write their arguments by turns."""
        self._parts: dict[int, int] = {}
        self._finished: set[int] = set()

    def feed(self, data: bytes) -> list[Happening]:
        out: list[Happening] = []
        for _, payload in self._parser.feed(data):
            if payload.strip() == b"[DONE]":
                out.append(Over())
            elif payload:
                self._chunk(object_of(orjson.loads(payload)), out)
        return out

    def _chunk(self, chunk: Tree, out: list[Happening]) -> None:
        if not self._begun:
            self._begun = True
            out.append(
                Begun(
                    text(chunk.get("model")) or "",
                    text(chunk.get("id")) or "",
                    whole(chunk.get("created")) or 0,
                )
            )
        for entry in items(chunk.get("choices")):
            choice = object_of(entry)
            number = whole(choice.get("index")) or 0
            if number in self._finished:
                continue
            delta = object_of(choice.get("delta"))
            for field, kind in _FIELDS:
                said = delta.get(field)
                if type(said) is str and said:
                    out.append(PartGrew(number, self._part(number, kind, out), said))
            for call in items(delta.get("tool_calls")):
                self._call(number, object_of(call), out)
            old = delta.get("function_call")
            if type(old) is dict:
                self._call(number, {"index": 0, "id": text(old.get("name")) or "", "function": old}, out)
            reason = choice.get("finish_reason")
            if choice.get("logprobs") is not None:
                note(self.lost, "content: a translated answer has no log-probabilities")
            if delta.get("audio") is not None or items(delta.get("annotations")):
                note(self.lost, "content: sounds and annotations have no place in other dialects")
            if type(reason) is str:
                self._finished.add(number)
                self._close(number, out)
                for part in self._calls.pop(number, {}).values():
                    out.append(PartEnded(number, part))
                out.append(Finished(number, FINISHES.get(reason, "other")))
        usage = read_usage(chunk.get("usage"))
        if usage is not None and not usage.malformed:
            out.append(Metered(usage))

    def _part(self, choice: int, kind: str, out: list[Happening]) -> int:
        """The number of the open part of this kind, begun if there is none."""
        known = self._open.get(choice)
        if known is not None and known[0] == kind:
            return known[1]
        number = self._next(choice, out)
        self._open[choice] = (kind, number)
        family = "openai" if kind == "reasoning" else ""
        out.append(PartBegun(choice, number, kind, family=family))  # type: ignore[arg-type]
        return number

    def _call(self, choice: int, call: Tree, out: list[Happening]) -> None:
        custom = call.get("type") == "custom" or "custom" in call
        function = object_of(call.get("custom" if custom else "function"))
        index = whole(call.get("index")) or 0
        calls = self._calls.setdefault(choice, {})
        part = calls.get(index)
        if part is None:
            part = calls[index] = self._next(choice, out)
            name = text(function.get("name")) or ""
            out.append(
                PartBegun(
                    choice, part, "custom_call" if custom else "tool_call", text(call.get("id")) or "", name
                )
            )
        said = text(function.get("input" if custom else "arguments"))
        if said:
            out.append(PartGrew(choice, part, said))

    def _next(self, choice: int, out: list[Happening]) -> int:
        self._close(choice, out)
        number = self._parts.get(choice, 0)
        self._parts[choice] = number + 1
        return number

    def _close(self, choice: int, out: list[Happening]) -> None:
        known = self._open.pop(choice, None)
        if known is not None:
            out.append(PartEnded(choice, known[1]))


class ChatWriter(Writer):
    """Chunks in answer to a call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._head: Tree = {}
        self._kinds: dict[tuple[int, int], tuple[str, int]] = {}
        """Per part: its kind and, of a call, its index in the choice."""
        self._calls: dict[int, int] = {}
        self._roles: set[int] = set()
        self._finished: set[int] = set()
        self._usage: Usage | None = None

    def catch_up(self, reader: Reader) -> None:
        self._roles.add(0)  # the head said it, though all of its text may be held back

    def write(self, happening: Happening) -> bytes:
        if isinstance(happening, PartGrew):
            kind, index = self._kinds.get((happening.choice, happening.part), ("text", 0))
            return self._delta(happening.choice, _delta(kind, index, happening.text))
        if isinstance(happening, PartBegun):
            return self._begin(happening)
        if isinstance(happening, Begun):
            self._head = {
                "id": self.answer_id or f"chatcmpl-{self._call.id}",
                "object": "chat.completion.chunk",
                "created": happening.created or created(),
                "model": happening.model or self._call.model,
            }
            self._usage = happening.usage or self._usage
            return b""
        if isinstance(happening, Finished):
            reason = _FINISH.get(happening.finish, happening.finish)
            if happening.stop_sequence is not None:
                note(self.lost, STOP_SEQUENCE)
            self._finished.add(happening.choice)
            return self._delta(happening.choice, {}, reason)
        if isinstance(happening, Metered):
            self._usage = happening.usage
            return b""
        if isinstance(happening, PartEnded):
            if happening.signature is not None or happening.sealed is not None:
                note(self.lost, SIGNATURE)
            return b""
        return self._over()

    def _begin(self, part: PartBegun) -> bytes:
        index = 0
        if part.kind == "tool_call" or part.kind == "custom_call":
            index = self._calls.get(part.choice, 0)
            self._calls[part.choice] = index + 1
        self._kinds[part.choice, part.part] = (part.kind, index)
        if part.kind == "tool_call":
            function = {"name": part.name, "arguments": ""}
            call: Tree = {"index": index, "id": part.call_id, "type": "function", "function": function}
        elif part.kind == "custom_call":
            call = {
                "index": index,
                "id": part.call_id,
                "type": "custom",
                "custom": {"name": part.name, "input": ""},
            }
        else:
            return b""
        return self._delta(part.choice, {"tool_calls": [call]})

    def _delta(self, choice: int, delta: Tree, finish: str | None = None) -> bytes:
        if choice not in self._roles:
            self._roles.add(choice)
            delta = {
                "role": "assistant",
                **({"content": ""} if not delta or "tool_calls" not in delta else {}),
                **delta,
            }
        entry = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}
        return write_event({**self._head, "choices": [entry]})

    def _over(self) -> bytes:
        if not self._call.wants_usage:
            return DONE
        usage = usage_tree(self._usage or Usage(input=0, output=0))
        return write_event({**self._head, "choices": [], "usage": usage}) + DONE

    def stop(self, error: CallError) -> bytes:
        started = {choice for choice, _ in self._kinds} | self._roles or {0}
        out = [self.write(Finished(choice, "content_filter")) for choice in sorted(started - self._finished)]
        return b"".join(out) + self.write(Over())

    def abort(self, error: CallError, request_id: str) -> bytes:
        return write_event({"error": error_object(error)})


def _delta(kind: str, index: int, said: str) -> Tree:
    if kind == "tool_call":
        return {"tool_calls": [{"index": index, "function": {"arguments": said}}]}
    if kind == "custom_call":
        return {"tool_calls": [{"index": index, "custom": {"input": said}}]}
    return {{"text": "content", "refusal": "refusal", "reasoning": "reasoning_content"}[kind]: said}


def usage_tree(usage: Usage) -> dict[str, Any]:
    """Usage in the words of chat completions."""
    before, after = usage.input or 0, usage.output or 0
    out: Tree = {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}
    if usage.cache_read or usage.cache_write:
        out["prompt_tokens_details"] = {"cached_tokens": usage.cache_read}
        if usage.cache_write:
            out["prompt_tokens_details"]["cache_write_tokens"] = usage.cache_write
    if usage.reasoning:
        out["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    return out
