"""What a request says, as the route's models want it; every value that is not as expected is told at once.

A message never holds a value that might be a secret: values under such a name are not shown at all, others in short.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from llmshield.admin.problems import Flaw, Problem
from llmshield.dialects._tree import Limits, parse_body
from llmshield.errors import WireError
from llmshield.policy.masking import found, is_secret_key

M = TypeVar("M", bound=BaseModel)

BODY_LIMIT = 64 * 1024
"""Bytes of a body: a sealed key and a few settings have a tenth of it."""
_DEPTH = 12
_MOST_FIELDS = 40
_MOST_FLAWS = 20
_LONGEST_NAME = 60


def read_path(model: type[M], names: Mapping[str, str]) -> M:
    """The names in a path. Raises: Problem `invalid`."""
    return _read(model, dict(names), "path")


def read_query(model: type[M], text: str) -> M:
    """What stands behind the `?`. Raises: Problem."""
    try:
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise Problem(
            "bad_request",
            "The query can't be read: expected NAME=VALUE, parted by &, in percent-encoded UTF-8.",
        ) from None
    seen: dict[str, str] = {}
    for name, value in pairs:
        if name in seen:
            flaw = Flaw(place="query", at=_short(name), message="found twice, expected once")
            raise Problem("invalid", "A value of the query is not what was expected.", errors=[flaw])
        seen[name] = value
    return _read(model, seen, "query")


def read_body(model: type[M], data: bytes) -> M:
    """The body. Raises: Problem."""
    try:
        tree = parse_body(data, Limits(body=BODY_LIMIT, depth=_DEPTH))
    except WireError as error:
        raise Problem("bad_request", str(error)) from None
    return _read(model, tree, "body")


def _read(model: type[M], tree: Any, place: Literal["path", "query", "body"]) -> M:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        flaws = [_flaw(item, place) for item in error.errors(include_url=False)[:_MOST_FLAWS]]
        what = ", ".join(dict.fromkeys(flaw.at or place for flaw in flaws))
        raise Problem("invalid", f"Not as expected in the {place}: {what}.", errors=flaws) from None


def _flaw(item: Any, place: Literal["path", "query", "body"]) -> Flaw:
    at = ".".join(_short(str(step)) for step in item["loc"])
    kind, message = item["type"], str(item["msg"])
    if kind == "extra_forbidden":
        message = "found a name that is not known here"
    elif kind == "missing":
        message = "found nothing, expected a value"
    elif not any(is_secret_key(str(step)) for step in item["loc"]) and "found " not in message:
        message = f"found {found(item.get('input'))}: {message}"
    return Flaw(place=place, at=at, message=message[:500])


def _short(name: str) -> str:
    shown = name if name.isprintable() and name.isascii() else ascii(name)
    return shown if len(shown) <= _LONGEST_NAME else shown[: _LONGEST_NAME - 1] + "~"
