"""Streams of OpenAI's responses API, into and out of happenings."""

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
from llmshield.dialects._openai import created, error_object, read_usage
from llmshield.dialects._sse import SseParser, write_event
from llmshield.errors import CallError
from llmshield.translators import Reader, Writer
from llmshield.translators._json import SIGNATURE, STOP_SEQUENCE, items, note, object_of, text, whole

_DELTAS: dict[str, str] = {
    "response.output_text.delta": "text", "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "reasoning", "response.reasoning_text.delta": "reasoning",
}  # fmt: skip
_CALL_DELTAS = frozenset({"response.function_call_arguments.delta", "response.custom_tool_call_input.delta"})
THOUGHTS = "content: OpenAI shows its own thoughts only"
OWN = "content: what OpenAI's server did with tools of its own"
ANNOTATIONS = "content: annotations have no place in other dialects"
_ITEMS = frozenset({"message", "reasoning", "function_call", "custom_tool_call"})
_ENDS = frozenset({"response.completed", "response.incomplete"})


def finish_of(response: Tree) -> FinishKind:
    """Why a response ended."""
    if response.get("status") == "incomplete":
        reason = object_of(response.get("incomplete_details")).get("reason")
        return (
            "length"
            if reason == "max_output_tokens"
            else "content_filter"
            if reason == "content_filter"
            else "other"
        )
    kinds = [object_of(item).get("type") for item in items(response.get("output"))]
    return "tool_calls" if "function_call" in kinds or "custom_tool_call" in kinds else "stop"


class ResponsesReader(Reader):
    """A stream of response events; there is one choice."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self._parts: dict[tuple[int, str, int], int] = {}
        """Number of the part at (output, kind, index)."""
        self._ended: set[int] = set()
        self._count = 0
        self.number = -1
        """The last event's."""

    def feed(self, data: bytes) -> list[Happening]:
        out: list[Happening] = []
        for _, payload in self._parser.feed(data):
            if payload:
                self._event(object_of(orjson.loads(payload)), out)
        return out

    def _event(self, tree: Tree, out: list[Happening]) -> None:
        kind = str(tree.get("type"))
        output = whole(tree.get("output_index")) or 0
        sequence = whole(tree.get("sequence_number"))
        self.number = self.number + 1 if sequence is None else sequence
        if kind in _DELTAS:
            word = _DELTAS[kind]
            index = whole(tree.get("summary_index", tree.get("content_index"))) or 0
            number = self._part(out, output, word, index, text(tree.get("item_id")) or "")
            self._grow(out, number, text(tree.get("delta")))
        elif kind in _CALL_DELTAS:
            part = self._parts.get((output, "call", 0))
            if part is not None:
                self._grow(out, part, text(tree.get("delta")))
        elif kind == "response.output_item.added":
            self._item(out, output, object_of(tree.get("item")))
        elif kind == "response.content_part.done":
            self._end(out, output, whole(tree.get("content_index")) or 0)
        elif kind == "response.output_item.done":
            self._item_done(out, output, object_of(tree.get("item")))
        elif kind == "response.output_text.annotation.added":
            note(self.lost, ANNOTATIONS)
        elif kind == "response.created":
            response = object_of(tree.get("response"))
            out.append(
                Begun(
                    text(response.get("model")) or "",
                    text(response.get("id")) or "",
                    whole(response.get("created_at")) or 0,
                )
            )
        elif kind in _ENDS:
            response = object_of(tree.get("response"))
            usage = read_usage(response.get("usage"))
            if usage is not None and not usage.malformed:
                out.append(Metered(usage))
            out += [Finished(0, finish_of(response)), Over()]

    def aligned(self) -> bool:
        places = [place for place, _, _ in self._parts]
        return OWN not in self.lost and places == list(range(len(places)))

    def _item(self, out: list[Happening], output: int, item: Tree) -> None:
        kind = text(item.get("type"))
        if kind not in _ITEMS:
            note(self.lost, OWN)
        if kind == "function_call" or kind == "custom_tool_call":
            number = self._new(output, "call", 0)
            word: Any = "tool_call" if kind == "function_call" else "custom_call"
            out.append(
                PartBegun(0, number, word, text(item.get("call_id")) or "", text(item.get("name")) or "")
            )

    def _item_done(self, out: list[Happening], output: int, item: Tree) -> None:
        sealed = text(item.get("encrypted_content")) if item.get("type") == "reasoning" else None
        open_parts = [
            n for (place, _, _), n in self._parts.items() if place == output and n not in self._ended
        ]
        if sealed is not None and not open_parts:
            open_parts = [self._part(out, output, "reasoning", 0)]
        for number in open_parts:
            self._ended.add(number)
            out.append(PartEnded(0, number, sealed=sealed))

    def _end(self, out: list[Happening], output: int, index: int) -> None:
        for word in ("text", "refusal"):
            number = self._parts.get((output, word, index))
            if number is not None and number not in self._ended:
                self._ended.add(number)
                out.append(PartEnded(0, number))

    def _part(self, out: list[Happening], output: int, word: Any, index: int, item: str = "") -> int:
        known = self._parts.get((output, word, index))
        if known is None:
            known = self._new(output, word, index)
            family = "openai" if word == "reasoning" else ""
            out.append(PartBegun(0, known, word, family=family, item=item))
        return known

    def _new(self, output: int, word: str, index: int) -> int:
        number = self._parts[output, word, index] = self._count
        self._count += 1
        return number

    def _grow(self, out: list[Happening], part: int, said: str | None) -> None:
        if said:
            out.append(PartGrew(0, part, said))


class ResponsesWriter(Writer):
    """Response events in answer to a call: an item for each part, and the whole response again in the end.

    Thoughts of other families are left out: OpenAI would not know them when they come back.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._number = 0
        self._model = call.model
        self._created = created()
        self._output: list[Tree] = []
        self._open: dict[int, _Item] = {}
        self._usage: Usage | None = None
        self._finish: FinishKind = "stop"

    def write(self, happening: Happening) -> bytes:
        if isinstance(happening, Begun):
            self._model = happening.model or self._model
            self._created = happening.created or self._created
            self._usage = happening.usage or self._usage
            response = self._response("in_progress")
            return self._event("response.created", response=response) + self._event(
                "response.in_progress", response=response
            )
        if isinstance(happening, Metered):
            self._usage = happening.usage
            return b""
        if isinstance(happening, Over):
            return self._over()
        if happening.choice != 0:
            note(self.lost, "choices: the responses API gives one answer")
            return b""
        if isinstance(happening, PartGrew):
            item = self._open.get(happening.part)
            return self._grow(item, happening.text) if item is not None else b""
        if isinstance(happening, PartBegun):
            return self._begin(happening)
        if isinstance(happening, PartEnded):
            item = self._open.pop(happening.part, None)
            if item is not None and item.kind == "reasoning":
                item.sealed = happening.sealed
            elif item is not None and (happening.signature or happening.sealed):
                note(self.lost, SIGNATURE)
            return self._end(item) if item is not None else b""
        self._finish = happening.finish
        if happening.stop_sequence is not None:
            note(self.lost, STOP_SEQUENCE)
        return b""

    def resume(self, begun: Begun) -> None:
        self._model = begun.model or self._model

    def catch_up(self, reader: Reader) -> None:
        if isinstance(reader, ResponsesReader):
            self._number = reader.number + 1

    def _event(self, name: str, **fields: Any) -> bytes:
        tree = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return write_event(tree, name)

    def _begin(self, part: PartBegun) -> bytes:
        if part.kind == "reasoning" and part.family != "openai":
            note(self.lost, THOUGHTS)
            return b""
        index = len(self._output)
        item = self._open[part.part] = _Item(part, index, self._call.id)
        self._output.append(item.tree("in_progress"))
        out = self._event("response.output_item.added", output_index=index, item=item.tree("in_progress"))
        if item.kind == "message":
            out += self._event("response.content_part.added", **item.place, part=item.part(""))
        elif item.kind == "reasoning":
            out += self._event("response.reasoning_summary_part.added", **item.place, part=item.part(""))
        return out

    def _grow(self, item: _Item, said: str) -> bytes:
        item.said.append(said)
        more: Tree = {"logprobs": []} if item.event == "response.output_text" else {}
        return self._event(f"{item.event}.delta", **item.place, delta=said, **more)

    def _end(self, item: _Item) -> bytes:
        whole_text = "".join(item.said)
        more: Tree = {"logprobs": []} if item.event == "response.output_text" else {}
        out = self._event(f"{item.event}.done", **item.place, **{item.field: whole_text}, **more)
        if item.kind == "message":
            out += self._event("response.content_part.done", **item.place, part=item.part(whole_text))
        elif item.kind == "reasoning":
            out += self._event(
                "response.reasoning_summary_part.done", **item.place, part=item.part(whole_text)
            )
        self._output[item.index] = item.tree("completed")
        return out + self._event(
            "response.output_item.done", output_index=item.index, item=self._output[item.index]
        )

    def _over(self) -> bytes:
        out = b"".join([self._end(item) for item in self._open.values()])
        self._open.clear()
        status = "incomplete" if self._finish in {"length", "content_filter"} else "completed"
        return out + self._event(f"response.{status}", response=self._response(status))

    def _response(self, status: str) -> Tree:
        tree = response_tree(
            self._call, self._model, self._created, status, self._output, self._usage, self._finish
        )
        if self.answer_id:
            tree["id"] = self.answer_id
        return tree

    def stop(self, error: CallError) -> bytes:
        response = self._response("failed")
        # Codex shows the message of `invalid_prompt` and gives up; other codes it tries again.
        response["error"] = {"code": "invalid_prompt", "message": error_object(error)["message"]}
        return self._event("response.failed", response={**response, "output": []})

    def abort(self, error: CallError, request_id: str) -> bytes:
        found = error_object(error)
        return self._event(
            "error", **{key: value for key, value in found.items() if key != "type"}, error=found
        )


class _Item:
    """One part of the answer, as the item that it is here."""

    def __init__(self, begun: PartBegun, index: int, call_id: str) -> None:
        self._begun = begun
        self.index = index
        self.said: list[str] = []
        self.sealed: str | None = None
        kind = begun.kind
        self.kind = {"text": "message", "refusal": "message", "reasoning": "reasoning"}.get(kind, "call")
        self.event, self.field, prefix = {
            "text": ("response.output_text", "text", "msg"),
            "refusal": ("response.refusal", "refusal", "msg"),
            "reasoning": ("response.reasoning_summary_text", "text", "rs"),
            "tool_call": ("response.function_call_arguments", "arguments", "fc"),
            "custom_call": ("response.custom_tool_call_input", "input", "ctc"),
        }[kind]
        self._id = begun.item or f"{prefix}_{call_id}{index}"
        self.place: Tree = {"item_id": self._id, "output_index": index}
        if self.kind == "message":
            self.place["content_index"] = 0
        elif self.kind == "reasoning":
            self.place["summary_index"] = 0

    def part(self, said: str) -> Tree:
        """The part of the item that holds the text."""
        if self._begun.kind == "refusal":
            return {"type": "refusal", "refusal": said}
        if self.kind == "reasoning":
            return {"type": "summary_text", "text": said}
        return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}

    def tree(self, status: str) -> Tree:
        """The item as it stands."""
        said = "".join(self.said)
        done = status == "completed"
        if self.kind == "message":
            content = [self.part(said)] if done else []
            return {
                "id": self._id,
                "type": "message",
                "status": status,
                "role": "assistant",
                "content": content,
            }
        if self.kind == "reasoning":
            thought: Tree = {"id": self._id, "type": "reasoning", "summary": []}
            if done and said:
                thought["summary"] = [self.part(said)]
            return thought if self.sealed is None else {**thought, "encrypted_content": self.sealed}
        named = {"call_id": self._begun.call_id, "name": self._begun.name}
        if self._begun.kind == "custom_call":
            return {"id": self._id, "type": "custom_tool_call", "input": said, **named}
        return {"id": self._id, "type": "function_call", "status": status, "arguments": said, **named}


def response_tree(
    call: Call, model: str, at: int, status: str, output: list[Tree], usage: Usage | None, finish: FinishKind
) -> Tree:
    """A response object in answer to a call."""
    body = call.body
    done = status != "in_progress"
    why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish) if done else None
    return {
        "id": f"resp_{call.id}",
        "object": "response",
        "created_at": at,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": why} if why is not None else None,
        "instructions": None,
        "max_output_tokens": body.get("max_output_tokens"),
        "model": model,
        "output": list(output),
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "temperature": body.get("temperature"),
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": [],
        "top_p": body.get("top_p"),
        "metadata": {},
        "usage": usage_tree(usage) if done else None,
    }


def usage_tree(usage: Usage | None) -> Tree:
    """Usage in the words of the responses API."""
    before, after = (usage.input or 0, usage.output or 0) if usage is not None else (0, 0)
    return {
        "input_tokens": before,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read if usage is not None else 0,
            "cache_write_tokens": usage.cache_write if usage is not None else 0,
        },
        "output_tokens": after,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning if usage is not None else 0},
        "total_tokens": before + after,
    }
