"""Streams of Gemini's chunks, into and out of happenings."""

from __future__ import annotations

import uuid
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
    ToolCallPart,
)
from llmshield.dialects._gemini import STOP_REASONS, UsageMeter, finish_kind
from llmshield.dialects._gemini_stream import GeminiStream
from llmshield.dialects._sse import SseParser
from llmshield.errors import CallError
from llmshield.translators import Reader, Writer
from llmshield.translators._gemini_request import FAMILY, get
from llmshield.translators._json import (
    SIGNATURE,
    STOP_SEQUENCE,
    arguments_text,
    arguments_tree,
    items,
    note,
    object_of,
    text,
    whole,
)
from llmshield.translators._names import made_id

REFUSAL = "content: a refusal is told as words"
CITATIONS = "content: citations and log-probabilities have no place in other dialects"
BESIDES = ("citationMetadata", "groundingMetadata", "logprobsResult", "urlContextMetadata")
"""What a candidate may say beside its content."""
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
        self._calls: dict[int, int] = {}
        self._finished: set[int] = set()
        self._id = ""

    def feed(self, data: bytes) -> list[Happening]:
        out: list[Happening] = []
        for _, payload in self._parser.feed(data):
            if payload:
                self._chunk(object_of(orjson.loads(payload)), out)
        return out

    def _chunk(self, chunk: Tree, out: list[Happening]) -> None:
        if not self._begun:
            self._begun = True
            self._id = text(chunk.get("responseId")) or ""
            out.append(Begun(text(chunk.get("modelVersion")) or "", self._id))
            self._id = self._id or uuid.uuid4().hex
        if chunk.get("usageMetadata") is not None:
            self._meter.feed(chunk["usageMetadata"])
            usage = self._meter.usage()
            if usage is not None and not usage.malformed:
                out.append(Metered(usage))
        for position, entry in enumerate(items(chunk.get("candidates"))):
            self._candidate(object_of(entry), position, out)
        feedback = object_of(get(chunk, "promptFeedback"))
        if feedback.get("blockReason") is not None and 0 not in self._finished:
            self._finished.add(0)
            out.append(Finished(0, "content_filter"))

    def _candidate(self, candidate: Tree, position: int, out: list[Happening]) -> None:
        choice = whole(candidate.get("index"))
        choice = position if choice is None else choice
        if choice in self._finished:
            if items(object_of(candidate.get("content")).get("parts")):
                note(self.lost, "content: what came behind the end of the answer")
            return
        for entry in items(object_of(candidate.get("content")).get("parts")):
            part = object_of(entry)
            said, signature = text(part.get("text")), text(get(part, "thoughtSignature"))
            if said:
                kind = "reasoning" if part.get("thought") else "text"
                out.append(PartGrew(choice, self._part(choice, kind, out), said))
            elif call := object_of(get(part, "functionCall")):
                self._call(choice, call, signature, out)
                continue
            elif said is None:
                note(self.lost, unknown_part(part))
            if signature is not None:
                number = self._next(choice, out)
                out.append(PartBegun(choice, number, "reasoning", family=FAMILY))
                out.append(PartEnded(choice, number, sealed=signature))
        if any(candidate.get(name) is not None for name in BESIDES):
            note(self.lost, CITATIONS)
        finish = finish_kind(candidate.get("finishReason"), called=choice in self._calls)
        if finish is not None:
            self._finished.add(choice)
            self._close(choice, out)
            out.append(Finished(choice, finish))

    def _part(self, choice: int, kind: Any, out: list[Happening]) -> int:
        known = self._open.get(choice)
        if known is not None and known[0] == kind:
            return known[1]
        number = self._next(choice, out)
        self._open[choice] = (kind, number)
        out.append(PartBegun(choice, number, kind, family=FAMILY if kind == "reasoning" else ""))
        return number

    def _call(self, choice: int, call: Tree, signature: str | None, out: list[Happening]) -> None:
        number = self._next(choice, out)
        count = self._calls.get(choice, 0)
        self._calls[choice] = count + 1
        known = text(call.get("id")) or made_id(self._id, choice, count)
        out.append(PartBegun(choice, number, "tool_call", known, text(call.get("name")) or ""))
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
        self._finished: dict[int, Finished] = {}
        self._malformed: set[int] = set()
        self._usage: Usage | None = None

    def catch_up(self, reader: Reader) -> None:
        self._frames.go_on()

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
            self._finished[happening.choice] = happening
            if happening.stop_sequence is not None:
                note(self.lost, STOP_SEQUENCE)
        elif isinstance(happening, Over):
            return self._over()
        return b""

    def _grow(self, part: PartGrew) -> bytes:
        begun = self._kinds.get((part.choice, part.part))
        kind = begun.kind if begun is not None else "text"
        if kind == "refusal":
            note(self.lost, REFUSAL)
        if kind == "tool_call" or kind == "custom_call":
            self._arguments.setdefault((part.choice, part.part), []).append(part.text)
            return b""
        said: Tree = {"text": part.text, "thought": True} if kind == "reasoning" else {"text": part.text}
        return self._chunk(part.choice, said)

    def _end(self, part: PartEnded) -> bytes:
        begun = self._kinds.get((part.choice, part.part))
        if begun is None:
            return b""
        if begun.kind not in {"tool_call", "custom_call"}:
            if begun.kind == "reasoning" and begun.family == FAMILY and part.sealed is not None:
                return self._chunk(part.choice, {"text": "", "thoughtSignature": part.sealed})
            if part.signature is not None or part.sealed is not None:
                note(self.lost, SIGNATURE)
            return b""
        written = "".join(self._arguments.pop((part.choice, part.part), []))
        call = ToolCallPart(begun.call_id, begun.name, written, begun.kind == "custom_call", part.signature)
        told = call_part(call, self.lost)
        if told is None:
            self._malformed.add(part.choice)
            return b""
        return self._chunk(part.choice, told)

    def _chunk(self, choice: int, part: Tree) -> bytes:
        candidate = {"content": {"role": "model", "parts": [part]}, "index": choice}
        tree = {"candidates": [candidate], "usageMetadata": usage_tree(self._usage), "modelVersion": self._model,
                "responseId": self.answer_id or self._call.id}  # fmt: skip
        return self._frames.write_own(tree)

    def _over(self) -> bytes:
        return self._end_with(
            [
                {
                    "content": {"role": "model", "parts": []},
                    "finishReason": finish_reason(each.finish, malformed=each.choice in self._malformed),
                    "index": each.choice,
                }
                for each in self._finished.values() or [Finished(0, "stop")]
            ]
        )

    def _end_with(self, candidates: list[Tree]) -> bytes:
        tree = {"candidates": candidates, "usageMetadata": usage_tree(self._usage), "modelVersion": self._model,
                "responseId": self.answer_id or self._call.id}  # fmt: skip
        return self._frames.write_own(tree) + self._frames.finalise()

    def stop(self, error: CallError) -> bytes:
        reason = error.code if error.code in STOP_REASONS else "PROHIBITED_CONTENT"
        choices = {choice for choice, _ in self._kinds} - self._finished.keys() or {0}
        return self._end_with(
            [
                {"finishReason": reason, "finishMessage": error.message, "index": choice}
                for choice in sorted(choices)
            ]
        )

    def abort(self, error: CallError, request_id: str) -> bytes:
        return self._frames.abort(error, request_id)


def call_part(call: ToolCallPart, lost: list[str]) -> Tree | None:
    """A function call; None for one whose arguments the model has not written to a good end: half of them would be
    taken for all. Free text of a custom tool is shown as an input of its own."""
    if call.custom:
        note(lost, "content: the free text of a custom tool is shown as an input of its own")
    tree = {"input": call.arguments} if call.custom else arguments_tree(call.arguments)
    if tree is None:
        note(lost, "content: a call whose arguments are no JSON object is left out")
        return None
    part: Tree = {"functionCall": {"id": call.id, "name": call.name, "args": tree}}
    return {**part, "thoughtSignature": call.signature} if call.signature is not None else part


def finish_reason(finish: FinishKind, *, malformed: bool) -> str:
    """Why a candidate ended, in Gemini's words; `malformed`: it lacks a call that the model did not write well."""
    return "MALFORMED_FUNCTION_CALL" if malformed and finish in {"stop", "tool_calls"} else STOPS[finish]


def unknown_part(part: Tree) -> str:
    """The loss that an answer's part is."""
    if get(part, "inlineData") or get(part, "fileData"):
        return "content: media in an answer have no place in other dialects"
    return "content: what Gemini's server did with tools of its own"


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
