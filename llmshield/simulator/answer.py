"""What the model says: the neutral answer to an Ask, from directives, a script or the default sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llmshield.simulator.ask import Ask, Tool, as_json, count, pieces, triggers
from llmshield.simulator.directives import Directives
from llmshield.simulator.schema import instance

Finish = Literal["stop", "length", "tool", "filter", "refusal"]

ECHO_LIMIT = 20_000
"""Code points of the user's message that the default sentence repeats: enough for any restore test."""

_FILLER = ("alpha ", "beta ", "gamma ", "delta ", "omega ", "sigma ")
_THOUGHT = "The user wrote something; a friendly answer that repeats it will do."


@dataclasses.dataclass(slots=True)
class ToolCall:
    """One call of a tool; `pieces` joined are its arguments (JSON, or free text for a custom tool)."""

    name: str
    pieces: list[str]
    id: str = ""
    custom: bool = False

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    @property
    def parsed(self) -> Any:
        """The arguments as a tree; what is not JSON comes as `{"_raw": text}`."""
        try:
            return json.loads(self.arguments or "{}")
        except ValueError:
            return {"_raw": self.arguments}


@dataclasses.dataclass(slots=True)
class Choice:
    """One answer of n. Every list holds the deltas in which a stream sends it."""

    text: list[str] = dataclasses.field(default_factory=list)
    reasoning: list[str] = dataclasses.field(default_factory=list)
    tools: list[ToolCall] = dataclasses.field(default_factory=list)
    refusal: list[str] = dataclasses.field(default_factory=list)
    finish: Finish = "stop"
    stop_sequence: str | None = None


@dataclasses.dataclass(slots=True)
class Usage:
    """Tokens. `input` includes `cached` and `cache_write`; `output` includes `reasoning`."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cached: int = 0
    cache_write: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Citation:
    """Words of the first choice's text that a source is given for: `text[start:end]`."""

    text: str
    start: int
    end: int
    title: str = "A simulated source"
    url: str = "https://example.com/source"


@dataclasses.dataclass(slots=True)
class Answer:
    """Everything a dialect needs to write the reply, whole or streamed."""

    number: int
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    finish: str | None = None
    sealed: bool = False
    """Reasoning comes as a block that only the provider can read."""
    citation: Citation | None = None

    def id(self, prefix: str, what: str = "") -> str:
        """An identifier that looks like the provider's and says which call it belongs to."""
        return f"{prefix}{'sim' + what:0<12}{self.number:012d}"


@dataclasses.dataclass(frozen=True, slots=True)
class Scripted:
    """An exact reply. What is left out is made as usual.

    text       the answer's text, or a list of the exact deltas
    reasoning  the same for reasoning
    tools      tool calls: `{"name": ..., "arguments": object | JSON text | list of exact pieces, "id": ...}`
    finish     stop, length, tool, filter, refusal
    usage      (input, output)
    simulate   directive text for this reply
    status, headers   of the HTTP reply
    body       the exact body, instead of everything above (bytes or text)
    chunks     the exact pieces of the body, written one by one (events of a stream, framing included)
    """

    text: str | Sequence[str] | None = None
    reasoning: str | Sequence[str] | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    finish: Finish | None = None
    usage: tuple[int, int] | None = None
    simulate: str = ""
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | str | None = None
    chunks: Sequence[bytes | str] | None = None


def scripted(value: Any) -> Scripted:
    """A script entry: a Scripted, a text, a list of deltas, or a mapping of Scripted's fields.

    Raises: ValueError for anything else or an unknown field.
    """
    if isinstance(value, Scripted):
        return value
    if isinstance(value, str):
        return Scripted(text=value)
    if isinstance(value, (list, tuple)):
        return Scripted(text=[str(v) for v in value])
    if isinstance(value, Mapping):
        known = {f.name for f in dataclasses.fields(Scripted)}
        for key in value:
            if key not in known:
                raise ValueError(f"unknown field {key!r} of a reply; there are: {', '.join(sorted(known))}")
        return Scripted(**value)
    raise ValueError(f"a reply is a text, a list of deltas or an object, not {type(value).__name__}")


def scripted_text(text: str) -> Scripted:
    """A reply as a header or metadata field has it: JSON if it begins like JSON, else the text itself.

    Raises: ValueError when JSON was meant and is broken.
    """
    if text.lstrip()[:1] in ('"', "[", "{"):
        return scripted(json.loads(text))
    return Scripted(text=text)


def compose(ask: Ask, want: Directives, script: Scripted | None, number: int, created: int) -> Answer:
    """The answer to an Ask: scripted parts first, then directives, then the default sentence."""
    choices = [_choice(ask, want, script, i) for i in range(ask.n)]
    usage = Usage(input=ask.tokens_in, cached=want.cached, cache_write=want.cache_write)
    for choice in choices:
        _obey_limits(ask, choice)
        thought = count("".join(choice.reasoning))
        usage.reasoning += thought
        usage.output += thought + count("".join(choice.text)) + count("".join(choice.refusal))
        usage.output += sum(count(tool.name) + count(tool.arguments) for tool in choice.tools)
    if want.reasoning is not None:
        usage.output += want.reasoning - usage.reasoning
        usage.reasoning = want.reasoning
    if script is not None and script.usage is not None:
        usage.input, usage.output = script.usage
    if want.usage is not None:
        usage.input, usage.output = (int(part) for part in want.usage.split(":"))
    cited = _citation(ask, choices[0]) if want.citations else None
    return Answer(number, created, ask.model, choices, usage, want.finish, want.thinking == "redacted", cited)


def _citation(ask: Ask, choice: Choice) -> Citation | None:
    """The user's words where the text repeats them, else the whole text; nothing without a text."""
    whole, said = "".join(choice.text), spoken(ask.user)
    start = max(whole.find(said), 0)
    end = start + len(said) if said and said in whole else len(whole)
    return Citation(whole[start:end], start, end, f"Source about {said[:80]}") if whole else None


def _choice(ask: Ask, want: Directives, script: Scripted | None, index: int) -> Choice:
    choice = Choice()
    if ask.thinking or want.thinking in ("1", "redacted"):
        choice.reasoning = pieces(_THOUGHT, want.chars)
    if script is not None:
        if script.reasoning is not None:
            choice.reasoning = _deltas(script.reasoning, want.chars)
        choice.tools = [_scripted_tool(t, index, i, want.chars) for i, t in enumerate(script.tools)]
        if script.text is not None:
            choice.text = _deltas(script.text, want.chars)
        if script.text is not None or script.tools:
            choice.finish = script.finish or ("tool" if choice.tools else "stop")
            if choice.finish == "refusal":
                choice.refusal, choice.text = choice.text, []
            return choice
    choice.tools = [] if want.text is not None or want.tokens is not None else _tools(ask, want, index)
    if choice.tools:
        choice.finish = "tool"
    else:
        choice.text = pieces(_text(ask, want, index), want.chars)
    if script is not None and script.finish is not None:
        choice.finish = script.finish
    return choice


def _deltas(text: str | Sequence[str], size: int) -> list[str]:
    return pieces(text, size) if isinstance(text, str) else list(text)


def _scripted_tool(tool: Mapping[str, Any], choice: int, index: int, size: int) -> ToolCall:
    given = tool.get("arguments", {})
    parts = list(given) if isinstance(given, (list, tuple)) else None
    if parts is None:
        parts = pieces(given if isinstance(given, str) else as_json(given), size)
    return ToolCall(
        str(tool["name"]), parts, str(tool.get("id") or f"{choice}{index}"), bool(tool.get("custom"))
    )


def _tools(ask: Ask, want: Directives, choice: int) -> list[ToolCall]:
    """The calls that the prompt asks for or that the tool choice forces."""
    if not ask.tools or ask.force == "none":
        return []
    known = {tool.name: tool for tool in ask.tools}
    found: list[ToolCall] = []
    if ask.tool_result is None or ask.force is not None:
        for name, arguments, _, _ in triggers(ask.user):
            tool = known.get(name)
            if tool is not None and ask.force in (None, "any", name):
                found.append(_call(ask, want, tool, arguments, f"{choice}{len(found)}"))
    if not found and ask.force is not None:
        tool = ask.tools[0] if ask.force == "any" else known.get(ask.force, Tool(ask.force, {}))
        found.append(_call(ask, want, tool, None, f"{choice}0"))
    return found


def _call(ask: Ask, want: Directives, tool: Tool, arguments: str | None, mark: str) -> ToolCall:
    if arguments is None:
        free = spoken(ask.user) if want.args == "echo" or tool.custom else "text"
        arguments = free if tool.custom else as_json(instance(tool.schema or {"type": "object"}, free))
    return ToolCall(tool.name, pieces(arguments, want.chars), mark, tool.custom)


def spoken(user: str) -> str:
    """A prompt without its `[[call ...]]` marks."""
    if "[[call " not in user:
        return user
    kept, at = [], 0
    for _, _, start, end in triggers(user):
        kept.append(user[at:start])
        at = end
    return ("".join(kept) + user[at:]).strip()


def _text(ask: Ask, want: Directives, index: int) -> str:
    if want.text is not None:
        return want.text
    if want.tokens is not None:
        text = "".join(_FILLER) * (want.tokens * 4 // sum(map(len, _FILLER)) + 1)
        return text[: want.tokens * 4]
    if ask.schema is not None:
        return as_json(instance(ask.schema, spoken(ask.user) if want.args == "echo" else "text"))
    name = want.name or ask.model
    said = ask.tool_result if ask.tool_result is not None else spoken(ask.user)
    if ask.json_mode:
        return as_json({"from": name, "echo": said[:ECHO_LIMIT]})
    opening = "Hello" if index == 0 else f"Hello again ({index})"
    verb = "The tool said" if ask.tool_result is not None else "You said"
    return f"{opening}, I am {name}. {verb}: {said[:ECHO_LIMIT]}"


def _obey_limits(ask: Ask, choice: Choice) -> None:
    """Cut at the first stop sequence, then at the output bound, reasoning first."""
    if ask.stops:
        whole = "".join(choice.text)
        at, found = min(((whole.find(s), s) for s in ask.stops if s in whole), default=(-1, None))
        if found is not None:
            _cut(choice.text, at)
            choice.finish, choice.stop_sequence = "stop", found
            choice.tools = []
    if ask.max_tokens is None:
        return
    left = ask.max_tokens
    for parts in (choice.reasoning, choice.text, choice.refusal):
        used = count("".join(parts))
        if used > left:
            _cut(parts, left * 4)
            choice.finish, choice.stop_sequence = "length", None
            left = 0
        else:
            left -= used
    for tool in list(choice.tools):
        used = count(tool.name) + count(tool.arguments)
        if used <= left:
            left -= used
            continue
        choice.finish = "length"
        if left <= count(tool.name):
            choice.tools.remove(tool)
        else:
            _cut(tool.pieces, (left - count(tool.name)) * 4)
        left = 0


def _cut(parts: list[str], length: int) -> None:
    """Shorten a list of pieces to `length` characters in all."""
    for i, part in enumerate(parts):
        if len(part) >= length:
            parts[i:] = [part[:length]] if length else []
            return
        length -= len(part)
