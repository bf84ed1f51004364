"""What OpenAI's models refuse, each with a 400, of what chat completions can say.

After https://platform.openai.com/docs/guides/reasoning and the model pages; names that are not OpenAI's own (of
compatible servers) are left as they are: their server knows.
"""

from __future__ import annotations

import re

from llmshield.call import Tree
from llmshield.conversation import Conversation
from llmshield.translators._json import note

_OWN = re.compile(r"(gpt-\d|chatgpt-|o\d)")
_THINKS = re.compile(r"(o\d|gpt-5(?!.*-chat))")
_SAMPLING = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_OFF = {"temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0}
"""Values that are the same as none."""


def name_of(model: str) -> str:
    """A model's name without the folder before it (`openai/gpt-4o`)."""
    return model.rpartition("/")[2]


def bound_field(model: str) -> str:
    """OpenAI's own models all take `max_completion_tokens` (newer ones refuse the old field), other servers
    `max_tokens`."""
    return "max_completion_tokens" if _OWN.match(name_of(model)) else "max_tokens"


def fit(c: Conversation, body: Tree) -> None:
    """Take out of a body what its model would refuse; each is noted."""
    name = name_of(c.model)
    if not _OWN.match(name):
        return
    if not _THINKS.match(name):
        if body.pop("reasoning_effort", None) not in (None, "none"):
            note(c.lost, "thinking: this model doesn't think")
        return
    _fit_effort(c, body, name)
    thinks = not name.startswith("gpt-5.") or body.get("reasoning_effort") not in (None, "none")
    if not thinks:
        return
    for field in _SAMPLING:
        if field in body and body[field] != _OFF[field]:
            del body[field]
            note(c.lost, f"{field}: this model takes none")
    if body.get("stop"):
        note(c.missing, "stop: this model has no stop sequences")


def _fit_effort(c: Conversation, body: Tree, name: str) -> None:
    effort = body.get("reasoning_effort")
    if name.startswith("o"):
        near = {"none": "low", "minimal": "low", "xhigh": "high"}
    elif name.startswith("gpt-5."):
        near = {"minimal": "low"}
    else:
        near = {"none": "minimal", "xhigh": "high"}
    if effort in near:
        body["reasoning_effort"] = near[effort]
        note(c.lost, f"thinking: of efforts this model has {near[effort]!r} at the nearest")
