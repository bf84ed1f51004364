"""Bodies in Gemini's generateContent, from neutral shapes (read by `_gemini_request`)."""

from __future__ import annotations

import re

from llmshield.call import Tree
from llmshield.conversation import (
    Conversation,
    MediaPart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from llmshield.translators import _gemini_thinking
from llmshield.translators._gemini_request import FAMILY
from llmshield.translators._gemini_schema import readable
from llmshield.translators._gemini_thinking import UNSIGNED, version
from llmshield.translators._json import (
    arguments_tree,
    note,
    without_none,
)
from llmshield.translators._names import check_tools

_TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}\Z")
_ENDINGS = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp",
    "heic": "image/heic", "heif": "image/heif", "pdf": "application/pdf", "txt": "text/plain", "md": "text/markdown",
    "html": "text/html", "csv": "text/csv",
}  # fmt: skip
"""Media types by the endings of addresses."""


def write_conversation(c: Conversation) -> Tree:
    check_tools(c, _TOOL_NAME, "Gemini")
    body: Tree = {"contents": _write_contents(c)}
    if not body["contents"]:
        note(c.missing, "messages: Gemini answers a user, and nobody has said anything")
    if c.messages and c.messages[-1].speaker == "assistant":
        note(c.lost, "messages: Gemini does not go on from the assistant's last words")
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
            note(c.lost, "tools: Gemini's functions are not strict")
    if c.tool_choice is not None and c.tools:
        body["toolConfig"] = {"functionCallingConfig": _calling(c.tool_choice)}
    if c.parallel_tools is False:
        note(c.lost, "parallel_tools: Gemini calls functions as it likes")
    if c.user is not None:
        note(c.lost, "user: Gemini asks for no user")
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
                note(c.lost, f"messages/{index}: Gemini hears the system at the beginning only")
            if any(not isinstance(part, TextPart) for part in message.parts):
                note(c.missing, f"messages/{index}: Gemini's system speaks in words only")
            continue
        if message.name is not None:
            note(c.lost, f"messages/{index}/name: Gemini's speakers have no names")
        unsigned = message.speaker == "assistant" and version(c.model) >= 3
        role = "model" if message.speaker == "assistant" else "user"
        parts: list[Tree] = []
        for part in message.parts:
            if isinstance(part, ReasoningPart) and part.sealed is not None and part.family == FAMILY:
                if parts and "functionCall" not in parts[-1]:
                    parts[-1]["thoughtSignature"] = part.sealed
                else:
                    parts.append({"text": "", "thoughtSignature": part.sealed})
            elif (written := _write_part(c, part, names, f"messages/{index}")) is not None:
                if unsigned and "functionCall" in written:  # of parallel calls the first one is signed
                    unsigned = False
                    written.setdefault("thoughtSignature", UNSIGNED)
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
        if part.refusal:
            note(c.lost, f"{place}: a refusal is told as words")
        return {"text": part.text} if part.text else None
    if isinstance(part, MediaPart):
        if part.detail not in (None, "auto"):
            note(c.lost, f"{place}: how closely Gemini looks at an image is not told")
        if part.data is not None and part.media_type is not None:
            inline = {"mimeType": part.media_type, "data": part.data, "displayName": part.name}
            return {"inlineData": without_none(inline)}
        if part.url is not None:
            if _mime(part) is None:
                note(c.missing, f"{place}: of what kind this {part.kind} is, which Gemini wants to be told")
            file = {"fileUri": part.url, "mimeType": _mime(part), "displayName": part.name}
            return {"fileData": without_none(file)}
        note(c.missing, f"{place}: Gemini can't be shown this {part.kind}")
        return None
    if isinstance(part, ToolCallPart):
        arguments = None if part.custom else arguments_tree(part.arguments)
        if arguments is None:
            note(c.missing, f"{place}: a call whose arguments are no JSON object")
        call = {"functionCall": {"id": part.id, "name": part.name, "args": arguments or {}}}
        return {**call, "thoughtSignature": part.signature} if part.signature else call
    if isinstance(part, ToolResultPart):
        media = [each for each in part.parts if isinstance(each, MediaPart)]
        if any(each.data is None for each in media) or (media and version(c.model) < 3):
            note(c.missing, f"{place}: this model takes no such media from a function")
        shown = [written for each in media if (written := _write_part(c, each, names, place)) is not None]
        words = "\n".join([each.text for each in part.parts if isinstance(each, TextPart)])
        name = part.name or names.get(part.call_id) or part.call_id
        response = {
            "id": part.call_id,
            "name": name,
            "response": {"error" if part.failed else "output": words},
        }
        return {"functionResponse": {**response, "parts": shown} if shown else response}
    if part.family == FAMILY and part.text:
        return {"text": part.text, "thought": True}
    note(c.lost, f"{place}: Gemini takes back its own thoughts only")
    return None


def _mime(part: MediaPart) -> str | None:
    """What a medium is: as it was told, or by the ending of its address."""
    if part.media_type is not None:
        return part.media_type
    path = (part.url or "").partition("?")[0].partition("#")[0].lower()
    return _ENDINGS.get(path.rpartition(".")[2]) if part.kind in {"image", "document"} else None


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
        "thinkingConfig": _gemini_thinking.config(c),
    }
    if len(c.stop) > 5:
        note(c.missing, "stop: Gemini takes five stop sequences")
    if c.choices > 8:
        note(c.missing, "choices: Gemini gives eight answers at the most")
    if c.output is not None:
        config["responseMimeType"] = "application/json"
        if c.output.kind == "schema":
            config["responseJsonSchema"] = readable(c, c.output.schema or {}, "output")
            if c.output.name or c.output.description:
                note(c.lost, "output: Gemini's schemas have no names and descriptions of their own")
    if c.logprobs is not None:
        note(c.lost, "logprobs: a translated answer has none")
    return without_none(config)
