"""What is written in place of a value: one function for each action."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from llmshield_plugins.pii.settings import EntityRule

Give = Callable[[str, str], str]
"""kind, value -> placeholder"""


def apply(rule: EntityRule, kind: str, value: str, give: Give, key: bytes) -> str | None:
    """The text that takes the place of `value`; None: it stays (`flag`), or the call does not go on (`block`)."""
    match rule.action:
        case "replace":
            return give(kind, value)
        case "mask":
            return mask(value, rule.keep_last)
        case "hash":
            return f"<{kind}:{keyed_hash(kind, value, key)}>"
        case "redact":
            return f"<{kind}>"
        case _:
            return None


def mask(value: str, keep_last: int) -> str:
    """Letters and digits become `*`, but the last `keep_last` of them; separators stay. `**** **** **** 1111`."""
    hide = max(0, sum(c.isalnum() for c in value) - keep_last)
    if keep_last and hide == 0:
        hide = sum(c.isalnum() for c in value)  # nothing would be hidden: hide all
    out: list[str] = []
    for char in value:
        if char.isalnum() and hide:
            hide -= 1
            out.append("*")
        else:
            out.append(char)
    return "".join(out)


def keyed_hash(kind: str, value: str, key: bytes) -> str:
    """16 hex digits of HMAC-SHA256: the same value gives the same text, and nobody without the key can try values."""
    return hmac.new(key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]
