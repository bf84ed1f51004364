"""Models that a body names beside its own, and that the provider may run in its place or beside it.

What a policy says of models (a tier's list, routes, a provider's `models`) holds for these as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback: `fallbacks`, a list of objects with a `model`,
# or "default". https://openrouter.ai/docs/features/model-routing: `models`, a list of names.
FIELDS = ("fallbacks", "models")

ANY = "*"
"""Whichever the provider chooses."""

_NO_CHAT = "image_generation"


def other_models(body: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(field, model) of each; a tool may have a model of its own (Anthropic's advisor), pictures aside."""
    if "tools" not in body and "models" not in body and "fallbacks" not in body:  # nearly all
        return ()
    found: list[tuple[str, str]] = []
    for field in FIELDS:
        value = body.get(field)
        for each in value if type(value) is list else (value,) if value else ():
            model = each.get("model") if type(each) is dict else each
            found.append((field, model if type(model) is str and model not in ("", "default") else ANY))
    tools = body.get("tools")
    for tool in tools if type(tools) is list else ():
        if type(tool) is dict and "model" in tool and tool.get("type") != _NO_CHAT:
            model = tool["model"]
            found.append(("tools", model if type(model) is str and model else ANY))
    return tuple(found)
