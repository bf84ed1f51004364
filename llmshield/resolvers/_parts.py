"""`PATH[?option=value][#FIELD]`: how references to key stores are written, and what is made of their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from llmshield.errors import SecretError
from llmshield.resolvers._value import clean

CONNECT_S, READ_S = 3.0, 5.0
"""Seconds for a connection to a key store, and for its answer."""


class Parts(NamedTuple):
    """A reference taken apart; `field` picks one value of a JSON object, "" takes the whole."""

    path: str
    options: Mapping[str, str]
    field: str


def split(rest: str, ref: str, *known: str) -> Parts:
    """The parts of what stands behind `scheme://`; `known` are the options that it may have. Raises: SecretError."""
    front, _, field = rest.partition("#")
    path, _, query = front.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in known:
            raise SecretError(f"{ref}: unknown option {name!r:.40}; it may have {', '.join(known) or 'none'}")
    return Parts(path, options, field)


def picked(text: str, field: str, ref: str) -> str:
    """The key in a store's answer: the whole text, or one field of the JSON object in it. Raises: SecretError."""
    if not field:
        return clean(text, ref)
    try:
        tree = orjson.loads(text)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise SecretError(f"{ref}: what is kept there is no JSON object; leave out #{field}")
    return of_object(tree, field, ref)


def of_object(tree: Mapping[str, Any], field: str, ref: str) -> str:
    """One field of an object; without a name, the only one there is. Raises: SecretError, naming fields only."""
    names = ", ".join(sorted(map(str, tree))[:10]) or "none"
    if not field and len(tree) != 1:
        raise SecretError(
            f"{ref}: there are several fields; write which one, such as #api_key (there is {names})"
        )
    value = tree.get(field) if field else next(iter(tree.values()))
    if not isinstance(value, str):
        raise SecretError(f"{ref}: there is no text in the field {field!r}; there is {names}")
    return clean(value, ref)


def missing(extra: str, ref: str) -> SecretError:
    """What to say when a store's library is not installed."""
    return SecretError(f"{ref}: its library is not installed; pip install 'llmshield-sidecar[{extra}]'")
