"""Where secrets come from: `env://NAME`, `file://path`, `enc://…`. One module is one scheme; its name is the scheme.

A policy holds references; `resolve` turns one into its value at the moment it is needed. The value is never
stored, logged or put into a message: errors name the reference and what to do.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

from llmshield.errors import SecretError
from llmshield.redact import remember

GROUP = "llmshield.resolvers"


@dataclass(slots=True, frozen=True)
class SecretRef:
    """A reference to a secret: `scheme://rest`."""

    scheme: str
    rest: str

    @classmethod
    def parse(cls, text: str) -> SecretRef | None:
        """The reference in `text`, or None if it is none (and so perhaps the secret itself)."""
        scheme, mark, rest = text.partition("://")
        if not mark or not rest or not _is_scheme(scheme) or not rest.isprintable() or " " in rest:
            return None
        return cls(scheme, rest)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.rest}"


class Resolver(Protocol):
    """What a module of this room offers, as plain functions.

    `resolve(rest, base, owner)` is the value: `rest` is what stands behind `scheme://`, `base` the policy's folder,
    `owner` whose secret it is: a provider's name, `signer:NAME`, or None when nobody in particular asks. It may wait
    for a network, some seconds at most, and is called in a thread then.
    Raises: SecretError with the reference and a remedy, never the value.

    `warn(rest, base)` says what is unsafe about the reference (a key file that others may read), or "".
    """

    def resolve(self, rest: str, base: Path, owner: str | None) -> str: ...

    def warn(self, rest: str, base: Path) -> str: ...


def resolve(ref: str | SecretRef, base: Path, owner: str | None = None) -> str:
    """The secret that `ref` points at; relative paths start at `base`, the policy's folder. `owner` is whose it is: what
    was sealed for another one does not open.

    Raises: SecretError when `ref` is no reference, its scheme is not known or the value can't be had.
    """
    ref = _parsed(ref)
    value = _resolver(ref).resolve(ref.rest, base, owner)
    remember(value)  # from now on no message shows it, whatever quotes it
    return value


def warn(ref: str | SecretRef, base: Path) -> str:
    """What is unsafe about a reference, in a sentence, or ""; reads no secret.

    Raises: SecretError when `ref` is no reference or its scheme is not known.
    """
    ref = _parsed(ref)
    return _resolver(ref).warn(ref.rest, base)


def _parsed(ref: str | SecretRef) -> SecretRef:
    parsed = SecretRef.parse(ref) if isinstance(ref, str) else ref
    if parsed is None:
        raise SecretError("found a literal, expected a reference to a key such as env://NAME")
    return parsed


def _resolver(ref: SecretRef) -> Resolver:
    """The module of the scheme: in this room, or from an installed distribution."""
    name = ref.scheme.replace("-", "_").replace("+", "_").replace(".", "_")
    if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        return cast(Resolver, importlib.import_module(f"{__name__}.{name}"))
    for entry in entry_points(group=GROUP, name=ref.scheme):
        return cast(Resolver, entry.load())
    raise SecretError(f"the scheme {ref.scheme}:// is not known; write env://NAME, file://PATH or enc://…")


def _is_scheme(text: str) -> bool:
    """A lower-case word as RFC 3986, section 3.1, wants it."""
    return text[:1].isalpha() and set(text) <= _SCHEME


_SCHEME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789+-.")
