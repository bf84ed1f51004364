"""Streams of Gemini's chunks, into and out of happenings."""

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
from llmshield.dialects._gemini import UsageMeter, finish_kind
from llmshield.dialects._gemini_stream import GeminiStream
from llmshield.dialects._sse import SseParser
from llmshield.errors import CallError
from llmshield.translators import Reader, Writer
from llmshield.translators._gemini_request import get
from llmshield.translators._json import arguments_text, arguments_tree, items, object_of, text, whole

STOPS: dict[FinishKind, str] = {
    "stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "PROHIBITED_CONTENT",
    "error": "OTHER", "other": "OTHER",
}  # fmt: skip


class GeminiReader(Reader):
    """A stream of chunks (events; an array is never asked for). Its end is the end of its bytes."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self._meter = UsageMeter()
        self._begun = False
        self._open: dict[int, tuple[str, int]] = {}
        self._parts: dict[int, int] = {}
        self._called: set[int] = set()

    def feed(self, data: bytes) -> list[Happening]:
        out: list[Happening] = []
        for _, payload in self._parser.feed(data):
            if payload:
                self._chunk(object_of(orjson.loads(payload)), out)
        return out

    def _chunk(self, chunk: Tree, out: list[Happening]) -> None:
        if not self._begun:
            self._begun = True
            out.append(Begun(text(chunk.get("modelVersion")) or "", text(chunk.get("responseId")) or ""))
        if chunk.get("usageMetadata") is not None:
            self._meter.feed(chunk["usageMetadata"])
            usage = self._meter.usage()
            if usage is not None and not usage.malformed:
                out.append(Metered(usage))
        for position, entry in enumerate(items(chunk.get("candidates"))):
            self._candidate(object_of(entry), position, out)
        feedback = object_of(get(chunk, "promptFeedback"))
        if feedback.get("blockReason") is not None:
            out.append(Finished(0, "content_filter"))

    def _candidate(self, candidate: Tree, position: int, out: list[Happening]) -> None:
        choice = whole(candidate.get("index"))
        choice = position if choice is None else choice
        for entry in items(object_of(candidate.get("content")).get("parts")):
            part = object_of(entry)
            said = text(part.get("text"))
            if said:
                kind = "reasoning" if part.get("thought") else "text"
                out.append(PartGrew(choice, self._part(choice, kind, out), said))
            elif call := object_of(get(part, "functionCall")):
                self._call(choice, call, text(get(part, "thoughtSignature")), out)
        finish = finish_kind(candidate.get("finishReason"), called=choice in self._called)
        if finish is not None:
            self._close(choice, out)
            out.append(Finished(choice, finish))

    def _part(self, choice: int, kind: Any, out: list[Happening]) -> int:
        known = self._open.get(choice)
        if known is not None and known[0] == kind:
            return known[1]
        number = self._next(choice, out)
        self._open[choice] = (kind, number)
        out.append(PartBegun(choice, number, kind))
        return number

    def _call(self, choice: int, call: Tree, signature: str | None, out: list[Happening]) -> None:
        number = self._next(choice, out)
        self._called.add(choice)
        name = text(call.get("name")) or ""
        out.append(
            PartBegun(choice, number, "tool_call", text(call.get("id")) or f"call_{choice}_{number}", name)
        )
        out.append(PartGrew(choice, number, arguments_text(object_of(call.get("args")))))
        out.append(PartEnded(choice, number, signature))

    def _next(self, choice: int, out: list[Happening]) -> int:
        self._close(choice, out)
        number = self._parts.get(choice, 0)
        self._parts[choice] = number + 1
        return number

    def _close(self, choice: int, out: list[Happening]) -> None:
        known = self._open.pop(choice, None)
        if known is not None:
            out.append(PartEnded(choice, known[1]))


class GeminiWriter(Writer):
    """Chunks in answer to a call, as events or as an array, as it was asked. A call's arguments go out whole."""

    def __init__(self, call: Call, *, array: bool) -> None:
        self._frames = GeminiStream(call.id, call.model, array=array)
        self.media_type = self._frames.media_type  # type: ignore[misc]  # it depends on the query
        self._call = call
        self._model = call.model
        self._kinds: dict[tuple[int, int], PartBegun] = {}
        self._arguments: dict[tuple[int, int], list[str]] = {}
        self._finished: list[Finished] = []
        self._usage: Usage | None = None

    def write(self, happening: Happening) -> bytes:
        if isinstance(happening, PartGrew):
            return self._grow(happening)
        if isinstance(happening, PartBegun):
            self._kinds[happening.choice, happening.part] = happening
        elif isinstance(happening, PartEnded):
            return self._end(happening)
        elif isinstance(happening, Begun):
            self._model = happening.model or self._model
            self._usage = happening.usage or self._usage
        elif isinstance(happening, Metered):
            self._usage = happening.usage
        elif isinstance(happening, Finished):
            self._finished.append(happening)
        elif isinstance(happening, Over):
            return self._over()
        return b""

    def _grow(self, part: PartGrew) -> bytes:
        begun = self._kinds.get((part.choice, part.part))
        kind = begun.kind if begun is not None else "text"
        if kind == "tool_call" or kind == "custom_call":
            self._arguments.setdefault((part.choice, part.part), []).append(part.text)
            return b""
        said: Tree = {"text": part.text, "thought": True} if kind == "reasoning" else {"text": part.text}
        return self._chunk(part.choice, said)

    def _end(self, part: PartEnded) -> bytes:
        begun = self._kinds.get((part.choice, part.part))
        if begun is None or begun.kind not in {"tool_call", "custom_call"}:
            return b""
        written = "".join(self._arguments.pop((part.choice, part.part), []))
        return self._chunk(
            part.choice, call_part(begun.call_id, begun.name, written, custom=begun.kind == "custom_call")
        )

    def _chunk(self, choice: int, part: Tree) -> bytes:
        candidate = {"content": {"role": "model", "parts": [part]}, "index": choice}
        tree = {"candidates": [candidate], "usageMetadata": usage_tree(self._usage), "modelVersion": self._model,
                "responseId": self.answer_id or self._call.id}  # fmt: skip
        return self._frames.write_own(tree)

    def _over(self) -> bytes:
        candidates = [
            {
                "content": {"role": "model", "parts": []},
                "finishReason": STOPS[each.finish],
                "index": each.choice,
            }
            for each in self._finished or [Finished(0, "stop")]
        ]
        tree = {"candidates": candidates, "usageMetadata": usage_tree(self._usage), "modelVersion": self._model,
                "responseId": self.answer_id or self._call.id}  # fmt: skip
        return self._frames.write_own(tree) + self._frames.finalise()

    def abort(self, error: CallError, request_id: str) -> bytes:
        return self._frames.abort(error, request_id)


def call_part(call_id: str, name: str, arguments: str, *, custom: bool = False) -> Tree:
    """A function call; what is no JSON object is shown as an input of its own."""
    tree = None if custom else arguments_tree(arguments)
    return {
        "functionCall": {"id": call_id, "name": name, "args": {"input": arguments} if tree is None else tree}
    }


def usage_tree(usage: Usage | None) -> Tree:
    """Usage in Gemini's words: thoughts are counted beside what is said."""
    if usage is None:
        return {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0}
    before, after = usage.input or 0, usage.output or 0
    thoughts = min(usage.reasoning, after)
    out = {
        "promptTokenCount": before,
        "candidatesTokenCount": after - thoughts,
        "totalTokenCount": before + after,
    }
    if thoughts:
        out["thoughtsTokenCount"] = thoughts
    if usage.cache_read:
        out["cachedContentTokenCount"] = usage.cache_read
    return out
