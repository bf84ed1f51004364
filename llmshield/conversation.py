"""A conversation and its answer in nobody's dialect: what translation between dialects goes through.

A dialect is read into these shapes and written from them; so N dialects need N translators, not N x N. Everything
that one of the dialects can say and another one might has a place here. What has none is named in `lost`, with its
place: it is refused or recorded by policy, never dropped silently.

Shapes are plain and mutable; texts are decoded strings; JSON values are trees as orjson makes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from llmshield.call import FinishKind, Tree, Usage

Speaker: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]

# -- parts of a message ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class TextPart:
    """Words. `refusal`: the model says that it won't."""

    text: str
    refusal: bool = False


@dataclass(slots=True)
class MediaPart:
    """A picture, a recording or a document: by address (`url`), by the provider's own name for it (`file_id`), or
    itself (`data` in base64, with its `media_type`). `name` is a file's name, `detail` how closely to look."""

    kind: Literal["image", "audio", "document", "video"]
    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    file_id: str | None = None
    name: str | None = None
    detail: str | None = None


@dataclass(slots=True)
class ToolCallPart:
    """The model asks for a tool. `arguments` is the JSON text as the model wrote it ("" for none); `custom`: free
    text of a custom tool instead. `signature` is a thought signature that belongs to this very call (Gemini)."""

    id: str
    name: str
    arguments: str
    custom: bool = False
    signature: str | None = None


@dataclass(slots=True)
class ToolResultPart:
    """What a tool has said. `name` is its name where the dialect repeats it."""

    call_id: str
    parts: list[TextPart | MediaPart]
    name: str | None = None
    failed: bool = False


@dataclass(slots=True)
class ReasoningPart:
    """What the model thought. `signature` proves it to its own provider (`family`) alone: a translation to another
    family drops the signature and says so; `sealed` is thought that only the provider can read, `id` its item."""

    text: str
    signature: str | None = None
    sealed: str | None = None
    family: str = ""
    id: str | None = None


Part: TypeAlias = TextPart | MediaPart | ToolCallPart | ToolResultPart | ReasoningPart


@dataclass(slots=True)
class Message:
    """One turn, or a part of one. Tool results are messages of the speaker `tool`."""

    speaker: Speaker
    parts: list[Part]
    name: str | None = None


# -- what is asked -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tool:
    """A function that the model may ask for; `schema` is the JSON Schema of its arguments (None: none given)."""

    name: str
    description: str | None = None
    schema: Tree | None = None
    strict: bool | None = None


@dataclass(slots=True)
class ToolChoice:
    """Whether the model calls a tool: as it likes, not at all, at least one, or the one that is named."""

    kind: Literal["auto", "none", "required", "named"]
    name: str | None = None


@dataclass(slots=True)
class OutputForm:
    """What the answer has to look like: any JSON object, or JSON of a schema."""

    kind: Literal["json", "schema"]
    schema: Tree | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


@dataclass(slots=True)
class Thinking:
    """How much the model may think: an effort by word, a budget in tokens, or switched off; `shown`: thoughts (or
    summaries of them) are part of the answer."""

    effort: str | None = None
    budget: int | None = None
    off: bool = False
    shown: bool | None = None


@dataclass(slots=True)
class Conversation:
    """One request. None (or empty) is what the client did not say; the target's own default then holds.

    `lost` names wishes that the source said and this shape (or the target) has no word for, `missing` what the model
    was to read, or the form of its answer; both as `place: why`, never with a text of the client's.
    """

    model: str
    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    output: OutputForm | None = None
    thinking: Thinking | None = None
    max_tokens: int | None = None
    choices: int = 1
    stop: list[str] = field(default_factory=list)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    logprobs: int | None = None
    """How many alternatives to each token are asked for; 0 for the token's own probability alone."""
    user: str | None = None
    """Who the end user is, in the client's own words."""
    stream: bool = False
    wants_usage: bool = True
    """Whether a stream is to tell its usage (chat completions ask for it)."""
    lost: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


# -- what is answered --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Choice:
    """One answer: its parts in order (text, reasoning, tool calls, media), and why it ended."""

    parts: list[Part]
    finish: FinishKind | None = None
    stop_sequence: str | None = None


@dataclass(slots=True)
class Answered:
    """A whole reply. `usage` in the gateway's own counting (input includes what came from a cache)."""

    model: str
    choices: list[Choice]
    usage: Usage | None = None
    id: str = ""
    created: int = 0
    lost: list[str] = field(default_factory=list)


# -- the same as a stream: what happens, in order -----------------------------------------------------------------------


@dataclass(slots=True)
class Begun:
    """The answer begins."""

    model: str
    id: str = ""
    created: int = 0
    usage: Usage | None = None


@dataclass(slots=True)
class PartBegun:
    """A part begins. `part` counts the parts of its choice from 0; `call_id` and `name` are a tool call's, `family`
    says whose thought it is, `item` is the part's own id where its dialect has one."""

    choice: int
    part: int
    kind: Literal["text", "refusal", "reasoning", "tool_call", "custom_call"]
    call_id: str = ""
    name: str = ""
    family: str = ""
    item: str = ""


@dataclass(slots=True)
class PartGrew:
    """More of a part: text, thought, or JSON text of arguments."""

    choice: int
    part: int
    text: str


@dataclass(slots=True)
class PartEnded:
    """A part is complete; `signature` and `sealed` as in ReasoningPart (or a call's own signature)."""

    choice: int
    part: int
    signature: str | None = None
    sealed: str | None = None


@dataclass(slots=True)
class Finished:
    """A choice is complete."""

    choice: int
    finish: FinishKind
    stop_sequence: str | None = None


@dataclass(slots=True)
class Metered:
    """The usage so far, or in the end."""

    usage: Usage


@dataclass(slots=True)
class Over:
    """The answer is complete."""


Happening: TypeAlias = Begun | PartBegun | PartGrew | PartEnded | Finished | Metered | Over
