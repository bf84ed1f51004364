"""Fields of a request for which a provider prescribes a form: what takes a value's place there has to keep to it.

OpenAI and Anthropic want names of participants, tools and schemas to match `^[a-zA-Z0-9_-]{1,64}$`
(https://platform.openai.com/docs/api-reference/chat/create, https://docs.claude.com/en/api/messages); `<PERSON_1>` would be
answered with 400. There it is `PERSON_1`, which comes back like the other.
"""

from __future__ import annotations

import re

from llmshield.call import Text
from llmshield_plugins.pii.detector import Found

LONGEST = 64
_FIELD = re.compile(
    r"/(?:(?:messages|input|tools|functions|contents|content|function_?declarations)/\d+|function|function_?call|function_?response"
    r"|tool_choice|tool|custom|json_schema|format)/name$",
    re.IGNORECASE,
)
_OTHER = re.compile(r"[^A-Za-z0-9_-]+")


def is_a_name(text: Text) -> bool:
    """Whether this is a field whose form is prescribed."""
    return not text.is_name and _FIELD.search(text.place) is not None


def as_a_name(made: str, kind: str) -> str:
    """What may stand there for `made`: without brackets and blanks; the kind alone where it would be too long."""
    name = _OTHER.sub("_", made.strip("<>")).strip("_")
    return name if 0 < len(name) <= LONGEST else kind


def joined(value: str, found: list[Found]) -> list[Found]:
    """One finding for a field of several (`Ann_Lee`): a part of it alone would leave the rest to be read."""
    if len(found) < 2:
        return found
    best = max(found, key=lambda item: item.score)
    return [Found(found[0].start, found[-1].end, best.kind, best.score)]
