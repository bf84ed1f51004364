"""What is written in place of a value: one function for each action."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from functools import partial
from typing import Protocol

import re2

from llmshield import vault
from llmshield_plugins.pii.fakes import fake
from llmshield_plugins.pii.settings import EntityRule


class Names(Protocol):
    """What was put in the place of values so far: the same for the same value."""

    def give(self, kind: str, value: str, /) -> str:
        """Its placeholder."""
        ...

    def stand_in(self, kind: str, value: str, make: Callable[[int], str], /) -> str:
        """Its surrogate; `make(attempt)` makes one."""
        ...

    def once(self, kind: str, value: str, make: Callable[[str, str], str], /) -> str:
        """`make(kind, value)`, made once."""
        ...


def apply(rule: EntityRule, kind: str, value: str, names: Names, key: bytes) -> str | None:
    """The text that takes the place of `value`; None: it stays (`flag`), or the call does not go on (`block`).

    Raises: SecretError when it is to be encrypted and the key ring is gone.
    """
    match rule.action:
        case "replace":
            return names.give(kind, value)
        case "fake":
            return names.stand_in(kind, value, partial(fake, kind, value, key))
        case "encrypt":
            return names.once(kind, value, encrypted)
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


# -- encrypt: what a holder of the key ring reads again ----------------------------------------------------------

_SEALED = re2.compile(r"<([A-Z][A-Z0-9_]{1,47}):sealed:([A-Za-z0-9_-]{62,})>")


def encrypted(kind: str, value: str) -> str:
    """`<KIND:sealed:…>` under the key ring of `llmshield.vault`; bound to the kind, and different each time.

    Raises: SecretError without a usable LLMSHIELD_SECRET_KEY.
    """
    sealed = vault.seal(value.encode("utf-8", "surrogatepass"), _context(kind))
    return f"<{kind}:sealed:{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}>"


def revealed(text: str) -> str:
    """`text` with every sealed value in it as it was. Raises: SecretError for one that this key ring does not open."""
    return str(_SEALED.sub(_opened, text))


def _opened(match: re2._Match[str]) -> str:
    kind, sealed = match.group(1), match.group(2)
    data = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    return vault.unseal(data, _context(kind)).decode("utf-8", "surrogatepass")


def _context(kind: str) -> str:
    return f"pii:{kind}"
