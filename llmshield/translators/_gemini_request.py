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
from llmshield.translators._json import (
    arguments_text,
    arguments_tree,
    items,
    number,
    object_of,
    text,
    truth,
    whole,
    without_none,
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
_EFFORTS = {
    "none": 0,
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24576,
    "xhigh": 32768,
    "max": 32768,
}
"""Tokens to think in for an effort by word: what Google's OpenAI layer maps
(https://ai.google.dev/gemini-api/docs/openai), and its largest budget beyond that."""
_LEVELS = {
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
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


# -- reading -------------------------------------------------------------------------------------------------------


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
    for name, value in body.items():
        known = camel(name)
        if known == "cachedContent":
            out.missing.append("cachedContent: text that only its provider holds")
        elif known not in _TOP and value not in (None, [], {}):
            out.lost.append(f"{name[:60]}: only Gemini has it")
    return out


class _Turns:
    """Reads contents. A call without an id is given one; results without one belong to the oldest call of their name
    that has none yet."""

    def __init__(self, out: Conversation) -> None:
        self._out = out
        self._calls = 0
        self._waiting: list[tuple[str, str]] = []

    def read(self, content: Tree, place: str) -> None:
        role = content.get("role", "user")
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
            seal = text(get(object_of(entry), "thoughtSignature"))
            if seal is not None and not isinstance(part, ToolCallPart):
                out.append(ReasoningPart("", sealed=seal, family=FAMILY))
        return out

    def _part(self, part: Tree, place: str) -> Part | None:
        if type(said := part.get("text")) is str:
            return ReasoningPart(said, family=FAMILY) if part.get("thought") else TextPart(said)
        if inline := object_of(get(part, "inlineData")):
            kind = text(get(inline, "mimeType"))
            medium = _medium(kind)
            return MediaPart(
                medium,
                data=text(inline.get("data")) or "",
                media_type=kind,
                name=text(get(inline, "displayName")),
            )
        if file := object_of(get(part, "fileData")):
            kind = text(get(file, "mimeType"))
            medium = _medium(kind)
            return MediaPart(
                medium, url=text(get(file, "fileUri")), media_type=kind, name=text(get(file, "displayName"))
            )
        if call := object_of(get(part, "functionCall")):
            name = text(call.get("name")) or ""
            call_id = text(call.get("id"))
            if call_id is None:
                self._calls += 1
                call_id = f"call_{self._calls}"
            self._waiting.append((name, call_id))
            arguments = call.get("args")
            said = arguments_text(arguments if arguments is not None else {})
            return ToolCallPart(call_id, name, said, signature=text(get(part, "thoughtSignature")))
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
        if result.get("parts"):
            self._out.missing.append(f"{place}: media from a function")
        return ToolResultPart(call_id, [TextPart(words)] if words else [], name=name, failed=failed)


def _read_tools(out: Conversation, body: Tree) -> None:
    for index, entry in enumerate(items(body.get("tools"))):
        tool = object_of(entry)
        for declared in items(get(tool, "functionDeclarations")):
            function = object_of(declared)
            schema = get(function, "parametersJsonSchema")
            if type(schema) is not dict and type(parameters := function.get("parameters")) is dict:
                schema = as_json_schema(parameters)
            known = schema if type(schema) is dict else None
            out.tools.append(Tool(text(function.get("name")) or "", text(function.get("description")), known))
        if any(camel(name) != "functionDeclarations" and value is not None for name, value in tool.items()):
            out.missing.append(f"tools/{index}: a tool of Gemini's own")
    calling = object_of(get(object_of(get(body, "toolConfig")), "functionCallingConfig"))
    mode = text(calling.get("mode"))
    allowed = [name for name in items(get(calling, "allowedFunctionNames")) if type(name) is str]
    if mode is not None and mode.upper() in _MODES:
        kind = _MODES[mode.upper()]
        if kind == "required" and len(allowed) == 1:
            out.tool_choice = ToolChoice("named", allowed[0])
        else:
            out.tool_choice = ToolChoice(kind)
            if allowed:
                out.missing.append("toolConfig: a choice among several functions")


def _read_config(out: Conversation, config: Tree) -> None:
    for name, field in (
        ("temperature", "temperature"), ("topP", "top_p"), ("presencePenalty", "presence_penalty"),
        ("frequencyPenalty", "frequency_penalty"),
    ):  # fmt: skip
        setattr(out, field, number(get(config, name)))
    for name, field in (("topK", "top_k"), ("maxOutputTokens", "max_tokens"), ("seed", "seed")):
        value = number(get(config, name))
        setattr(out, field, int(value) if value is not None else None)
    out.max_tokens = out.max_tokens or None
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
        budget, level = whole(get(thinking, "thinkingBudget")), text(get(thinking, "thinkingLevel"))
        out.thinking = Thinking(
            level.lower() if level else None, budget if budget and budget > 0 else None, budget == 0,
            truth(get(thinking, "includeThoughts")),
        )  # fmt: skip
    if get(config, "responseLogprobs") is True:
        out.logprobs = whole(config.get("logprobs")) or 0
    for name, value in config.items():
        if camel(name) not in _CONFIG and value is not None:
            out.lost.append(f"generationConfig/{name[:60]}: only Gemini has it")


def _medium(media_type: str | None) -> Literal["image", "audio", "video", "document"]:
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


# -- writing -------------------------------------------------------------------------------------------------------


def write_conversation(c: Conversation) -> Tree:
    body: Tree = {"contents": _write_contents(c)}
    system = [
        part for message in c.messages if message.speaker in {"system", "developer"} for part in message.parts
    ]
    if system:
        body["systemInstruction"] = {
            "parts": [{"text": part.text} for part in system if isinstance(part, TextPart)]
        }
    if c.tools:
        declared = [
            without_none(
                {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.schema}
            )
            for tool in c.tools
        ]
        body["tools"] = [{"functionDeclarations": declared}]
        if any(tool.strict for tool in c.tools):
            c.lost.append("tools: Gemini's functions are not strict")
    if c.tool_choice is not None:
        body["toolConfig"] = {"functionCallingConfig": _calling(c.tool_choice)}
    if c.parallel_tools is False:
        c.lost.append("parallel_tools: Gemini calls functions as it likes")
    if c.user is not None:
        c.lost.append("user: Gemini asks for no user")
    config = _write_config(c)
    if config:
        body["generationConfig"] = config
    return body


def _calling(choice: ToolChoice) -> Tree:
    if choice.kind == "named":
        return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice.kind]}


def _write_contents(c: Conversation) -> list[Tree]:
    """Turns of user and model; neighbours of one role are one turn, so that parallel results stand together."""
    names = {
        part.id: part.name
        for message in c.messages
        for part in message.parts
        if isinstance(part, ToolCallPart)
    }
    turns: list[Tree] = []
    for index, message in enumerate(c.messages):
        if message.speaker in {"system", "developer"}:
            if turns:
                c.lost.append(f"messages/{index}: Gemini hears the system at the beginning only")
            if any(not isinstance(part, TextPart) for part in message.parts):
                c.missing.append(f"messages/{index}: Gemini's system speaks in words only")
            continue
        if message.name is not None:
            c.lost.append(f"messages/{index}/name: Gemini's speakers have no names")
        role = "model" if message.speaker == "assistant" else "user"
        parts: list[Tree] = []
        for part in message.parts:
            if isinstance(part, ReasoningPart) and part.sealed is not None and part.family == FAMILY:
                if parts and "functionCall" not in parts[-1]:
                    parts[-1]["thoughtSignature"] = part.sealed
                else:
                    parts.append({"text": "", "thoughtSignature": part.sealed})
            elif (written := _write_part(c, part, names, f"messages/{index}")) is not None:
                parts.append(written)
        if not parts:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        else:
            turns.append({"role": role, "parts": parts})
    return turns


def _write_part(c: Conversation, part: Part, names: dict[str, str], place: str) -> Tree | None:
    if isinstance(part, TextPart):
        return {"text": part.text} if part.text else None
    if isinstance(part, MediaPart):
        if part.data is not None and part.media_type is not None:
            inline = {"mimeType": part.media_type, "data": part.data, "displayName": part.name}
            return {"inlineData": without_none(inline)}
        if part.url is not None:
            file = {"fileUri": part.url, "mimeType": part.media_type, "displayName": part.name}
            return {"fileData": without_none(file)}
        c.missing.append(f"{place}: Gemini can't be shown this {part.kind}")
        return None
    if isinstance(part, ToolCallPart):
        arguments = None if part.custom else arguments_tree(part.arguments)
        if arguments is None:
            c.missing.append(f"{place}: a call whose arguments are no JSON object")
        call = {"functionCall": {"id": part.id, "name": part.name, "args": arguments or {}}}
        return {**call, "thoughtSignature": part.signature} if part.signature else call
    if isinstance(part, ToolResultPart):
        if any(isinstance(each, MediaPart) for each in part.parts):
            c.missing.append(f"{place}: Gemini takes no media from a function here")
        words = "\n".join([each.text for each in part.parts if isinstance(each, TextPart)])
        name = part.name or names.get(part.call_id) or part.call_id
        return {
            "functionResponse": {
                "id": part.call_id,
                "name": name,
                "response": {"error" if part.failed else "output": words},
            }
        }
    if part.family == FAMILY and part.text:
        return {"text": part.text, "thought": True}
    c.lost.append(f"{place}: Gemini takes back its own thoughts only")
    return None


def _write_config(c: Conversation) -> Tree:
    config: Tree = {
        "temperature": c.temperature,
        "topP": c.top_p,
        "topK": c.top_k,
        "maxOutputTokens": c.max_tokens,
        "candidateCount": c.choices if c.choices != 1 else None,
        "stopSequences": c.stop or None,
        "presencePenalty": c.presence_penalty,
        "frequencyPenalty": c.frequency_penalty,
        "seed": c.seed,
    }
    if len(c.stop) > 5:
        c.missing.append("stop: Gemini takes five stop sequences")
    if c.choices > 8:
        c.missing.append("choices: Gemini gives eight answers at the most")
    if c.output is not None:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = c.output.schema if c.output.kind == "schema" else None
    if c.thinking is not None:
        config["thinkingConfig"] = _thinking(c, c.thinking) or None
    if c.logprobs is not None:
        config["responseLogprobs"] = True
        config["logprobs"] = c.logprobs or None
    return without_none(config)


def _thinking(c: Conversation, thinking: Thinking) -> Tree:
    out: Tree = {"includeThoughts": thinking.shown}
    if c.model.rpartition("/")[2].startswith("gemini-3") and thinking.budget is None:
        out["thinkingLevel"] = _LEVELS["minimal"] if thinking.off else _LEVELS.get(thinking.effort or "")
    elif thinking.off:
        out["thinkingBudget"] = 0
    elif thinking.budget is not None:
        out["thinkingBudget"] = thinking.budget
    elif thinking.effort is not None:
        out["thinkingBudget"] = _EFFORTS.get(thinking.effort, _EFFORTS["medium"])
    return without_none(out)
