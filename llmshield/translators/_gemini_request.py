"""Requests in Gemini's generateContent, into and out of neutral shapes.

Shapes after https://ai.google.dev/api/generate-content (google-genai 3.4). Fields are read in camelCase and as the
.proto spells them; written in camelCase.
"""

from __future__ import annotations

from typing import Any, Literal

from llmshield.call import Call, Tree
from llmshield.conversation import (
    Conversation,
    MediaPart,
    Message,
    OutputForm,
    Part,
    ReasoningPart,
    TextPart,
    Thinking,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from llmshield.dialects._gemini_texts import camel, snake
from llmshield.translators._gemini_schema import as_json_schema
from llmshield.translators._gemini_thinking import UNSIGNED
from llmshield.translators._json import (
    arguments_text,
    items,
    note,
    number,
    object_of,
    text,
    truth,
    unread,
    whole,
)

FAMILY = "gemini"
_TOP = frozenset({"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "model"})
_CONFIG = frozenset(
    {
        "temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "presencePenalty",
        "frequencyPenalty", "seed", "responseMimeType", "responseSchema", "responseJsonSchema", "thinkingConfig",
        "responseLogprobs", "logprobs", "responseModalities",
    }
)  # fmt: skip
_PART = frozenset(
    {"text", "thought", "thoughtSignature", "inlineData", "fileData", "functionCall", "functionResponse"}
)
_INSIDE = {
    "inlineData": frozenset({"mimeType", "data", "displayName"}),
    "fileData": frozenset({"mimeType", "fileUri", "displayName"}),
    "functionCall": frozenset({"id", "name", "args"}),
    "functionResponse": frozenset({"id", "name", "response", "parts"}),
}
_FUNCTION = frozenset({"name", "description", "parameters", "parametersJsonSchema"})
_THINKING = frozenset({"thinkingBudget", "thinkingLevel", "includeThoughts"})
_WHOSE = "Gemini"
_LETTERS = str.maketrans("-_", "+/")
_MODES: dict[str, Literal["auto", "none", "required"]] = {
    "AUTO": "auto",
    "NONE": "none",
    "ANY": "required",
    "VALIDATED": "auto",
}


def get(tree: Tree, name: str) -> Any:
    """A field in either spelling."""
    value = tree.get(name)
    return value if value is not None else tree.get(snake(name))


def read_conversation(call: Call) -> Conversation:
    body = call.body
    out = Conversation(model=call.model, messages=[], stream=call.stream)
    system = get(body, "systemInstruction")
    if system is not None:
        parts = _Turns(out).parts(
            {"parts": [{"text": system}]} if type(system) is str else object_of(system), "systemInstruction"
        )
        out.messages.append(Message("system", parts))
    turns = _Turns(out)
    contents = body.get("contents")
    for index, entry in enumerate([contents] if type(contents) is dict else items(contents)):
        turns.read(object_of(entry), f"contents/{index}")
    _read_tools(out, body)
    _read_config(out, object_of(get(body, "generationConfig")))
    if get(body, "cachedContent") is not None:
        note(out.missing, "cachedContent: text that only its provider holds")
    _unread(out, {name: value for name, value in body.items() if camel(name) != "cachedContent"}, _TOP, "")
    return out


def _unread(out: Conversation, tree: Tree, known: frozenset[str], place: str) -> None:
    """The same as `unread`, in either spelling."""
    unread(out.lost, {camel(name): value for name, value in tree.items()}, known, place, _WHOSE)


def _medium(part: Tree) -> MediaPart | None:
    """A medium, in the body or by its address."""
    if inline := object_of(get(part, "inlineData")):
        kind = text(get(inline, "mimeType"))
        data = standard_base64(text(inline.get("data")) or "")
        return MediaPart(medium_of(kind), data=data, media_type=kind, name=text(get(inline, "displayName")))
    if file := object_of(get(part, "fileData")):
        kind, url = text(get(file, "mimeType")), text(get(file, "fileUri"))
        return MediaPart(medium_of(kind), url=url, media_type=kind, name=text(get(file, "displayName")))
    return None


def standard_base64(data: str) -> str:
    """Bytes in the letters that other providers read: Google's own SDK writes those of URLs (RFC 4648, section 5)."""
    return data.translate(_LETTERS) + "=" * (-len(data) % 4)


def _signature(part: Tree) -> str | None:
    """A call's own; not the word that stands for none."""
    said = text(get(part, "thoughtSignature"))
    return said if said != UNSIGNED else None


class _Turns:
    """Reads contents. A call without an id is given one; results without one belong to the oldest call of their name
    that has none yet."""

    def __init__(self, out: Conversation) -> None:
        self._out = out
        self._calls = 0
        self._waiting: list[tuple[str, str]] = []

    def read(self, content: Tree, place: str) -> None:
        role = content.get("role", "user")
        _unread(self._out, content, frozenset({"role", "parts"}), place)
        parts = self.parts(content, f"{place}/parts")
        results = [part for part in parts if isinstance(part, ToolResultPart)]
        said: list[Part] = [part for part in parts if not isinstance(part, ToolResultPart)]
        if results:
            self._out.messages.append(Message("tool", [*results]))
        if said or not results:
            self._out.messages.append(Message("assistant" if role == "model" else "user", said))

    def parts(self, content: Tree, place: str) -> list[Part]:
        out: list[Part] = []
        entries = content.get("parts")
        for index, entry in enumerate([entries] if type(entries) is dict else items(entries)):
            part = self._part(object_of(entry), place)
            if part is None:
                self._out.missing.append(f"{place}/{index}: a part that only Gemini has")
                continue
            out.append(part)
            tree = object_of(entry)
            _unread(self._out, tree, _PART, f"{place}/{index}")
            for field, known in _INSIDE.items():
                _unread(self._out, object_of(get(tree, field)), known, f"{place}/{index}/{field}")
            seal = text(get(tree, "thoughtSignature"))
            if seal is not None and not isinstance(part, ToolCallPart):
                out.append(ReasoningPart("", sealed=seal, family=FAMILY))
        return out

    def _part(self, part: Tree, place: str) -> Part | None:
        if sum(get(part, name) is not None for name in ("text", *_INSIDE)) > 1:
            note(self._out.missing, f"{place}: a part that is several things at once")
        if type(said := part.get("text")) is str:
            return ReasoningPart(said, family=FAMILY) if part.get("thought") else TextPart(said)
        if (medium := _medium(part)) is not None:
            return medium
        if call := object_of(get(part, "functionCall")):
            name = text(call.get("name")) or ""
            call_id = text(call.get("id"))
            if call_id is None:
                self._calls += 1
                call_id = f"call_{self._calls}"
            self._waiting.append((name, call_id))
            arguments = call.get("args")
            said = arguments_text(arguments if arguments is not None else {})
            return ToolCallPart(call_id, name, said, signature=_signature(part))
        if result := object_of(get(part, "functionResponse")):
            return self._result(result, place)
        return None

    def _result(self, result: Tree, place: str) -> ToolResultPart:
        name = text(result.get("name")) or ""
        call_id = text(result.get("id"))
        if call_id is None:
            call_id = next((known for called, known in self._waiting if called == name), name)
        self._waiting = [one for one in self._waiting if one[1] != call_id]
        response = object_of(result.get("response"))
        failed = "error" in response and len(response) == 1
        said = response.get("error" if failed else "output") if len(response) == 1 else None
        words = said if type(said) is str else arguments_text(result.get("response"))
        parts: list[TextPart | MediaPart] = [TextPart(words)] if words else []
        for entry in items(result.get("parts")):
            medium = _medium(object_of(entry))
            if medium is not None:
                parts.append(medium)
            else:
                note(self._out.missing, f"{place}: a part of a function's result that only Gemini has")
            _unread(self._out, object_of(entry), frozenset({"inlineData", "fileData"}), place)
            for field in ("inlineData", "fileData"):
                _unread(self._out, object_of(get(object_of(entry), field)), _INSIDE[field], place)
        return ToolResultPart(call_id, parts, name=name, failed=failed)


def _read_tools(out: Conversation, body: Tree) -> None:
    for index, entry in enumerate(items(body.get("tools"))):
        tool = object_of(entry)
        for declared in items(get(tool, "functionDeclarations")):
            function = object_of(declared)
            _unread(out, function, _FUNCTION, f"tools/{index}")
            schema = get(function, "parametersJsonSchema")
            if type(schema) is not dict and type(parameters := function.get("parameters")) is dict:
                schema = as_json_schema(parameters)
            known = schema if type(schema) is dict else None
            out.tools.append(Tool(text(function.get("name")) or "", text(function.get("description")), known))
        if any(camel(name) != "functionDeclarations" and value is not None for name, value in tool.items()):
            out.missing.append(f"tools/{index}: a tool of Gemini's own")
    config = object_of(get(body, "toolConfig"))
    calling = object_of(get(config, "functionCallingConfig"))
    _unread(out, config, frozenset({"functionCallingConfig"}), "toolConfig")
    _unread(out, calling, frozenset({"mode", "allowedFunctionNames"}), "toolConfig")
    mode = text(calling.get("mode"))
    allowed = [name for name in items(get(calling, "allowedFunctionNames")) if type(name) is str]
    if mode is not None and mode.upper() in _MODES:
        kind = _MODES[mode.upper()]
        if mode.upper() == "VALIDATED":
            note(out.lost, "toolConfig: only Gemini validates the calls of one conversation")
        if kind == "required" and len(allowed) == 1:
            out.tool_choice = ToolChoice("named", allowed[0])
        else:
            out.tool_choice = ToolChoice(kind)
    if allowed and (out.tool_choice is None or out.tool_choice.kind != "named"):
        note(out.missing, "toolConfig: a choice among several functions")


def _read_config(out: Conversation, config: Tree) -> None:
    for name, field in (
        ("temperature", "temperature"), ("topP", "top_p"), ("presencePenalty", "presence_penalty"),
        ("frequencyPenalty", "frequency_penalty"),
    ):  # fmt: skip
        setattr(out, field, number(get(config, name)))
    for name, field in (("topK", "top_k"), ("maxOutputTokens", "max_tokens"), ("seed", "seed")):
        value = number(get(config, name))
        setattr(out, field, int(value) if value is not None else None)
    out.max_tokens = out.max_tokens or None  # 0 is the .proto's word for none
    out.choices = whole(get(config, "candidateCount")) or 1
    out.stop = [word for word in items(get(config, "stopSequences")) if type(word) is str]
    schema = get(config, "responseJsonSchema")
    if schema is None and type(given := get(config, "responseSchema")) is dict:
        schema = as_json_schema(given)
    kind = text(get(config, "responseMimeType"))
    if type(schema) is dict:
        out.output = OutputForm("schema", schema)
    elif kind == "application/json":
        out.output = OutputForm("json")
    elif kind not in (None, "text/plain"):
        out.missing.append("generationConfig/responseMimeType: a form of an unknown kind")
    if get(config, "responseModalities") not in (None, ["TEXT"], ["text"]):
        out.missing.append("generationConfig/responseModalities: an answer that is no text")
    thinking = object_of(get(config, "thinkingConfig"))
    if thinking:
        _unread(out, thinking, _THINKING, "generationConfig/thinkingConfig")
        budget, level = (
            whole(get(thinking, "thinkingBudget")),
            (text(get(thinking, "thinkingLevel")) or "").lower(),
        )
        out.thinking = Thinking(
            level if level in {"minimal", "low", "medium", "high"} else None, budget if budget and budget > 0 else None, budget == 0,
            truth(get(thinking, "includeThoughts")),
        )  # fmt: skip
    if get(config, "responseLogprobs") is True:
        out.logprobs = whole(config.get("logprobs")) or 0
    _unread(out, config, _CONFIG, "generationConfig")


def medium_of(media_type: str | None) -> Literal["image", "audio", "video", "document"]:
    kind = (media_type or "").partition("/")[0]
    return (
        "image"
        if kind == "image"
        else "audio"
        if kind == "audio"
        else "video"
        if kind == "video"
        else "document"
    )
