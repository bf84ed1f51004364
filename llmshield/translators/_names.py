"""Names that a provider takes: ids of calls, which a translation may change, and names of tools, which it may not."""

from __future__ import annotations

import hashlib
import re

from llmshield.conversation import Conversation
from llmshield.translators._json import note

_ID = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")
"""Ids of calls that all providers take: Anthropic's letters, and the length that chat completions allow (longer ones
are answered with 400, "string too long. Expected a string with maximum length 40")."""


def call_id(given: str) -> str:
    """The id, or a short one made from it where a provider would refuse it. A call and its result give the same."""
    return (
        given
        if _ID.match(given)
        else f"call_{hashlib.sha256(given.encode('utf-8', 'replace')).hexdigest()[:24]}"
    )


def made_id(answer: str, choice: int, number: int) -> str:
    """An id for a call that came without one; no other call of the conversation has it, as answers' ids differ."""
    return f"call_{hashlib.sha256(answer.encode('utf-8', 'replace')).hexdigest()[:16]}_{choice}_{number}"


def check_tools(c: Conversation, pattern: re.Pattern[str], whose: str) -> None:
    """Note tools whose name the provider would refuse: under another one the client would not know them."""
    for index, tool in enumerate(c.tools):
        if not pattern.match(tool.name):
            note(c.missing, f"tools/{index}: {whose} takes no such name")
