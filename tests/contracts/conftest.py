"""Every string leaf of a type, one body at a time: what the schema-driven tests of the dialects walk."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NotRequired, Required, get_args, get_origin

import pytest
from pydantic import BaseModel
from typing_extensions import ReadOnly, is_typeddict

Case = tuple[tuple[str, ...], Any]
"""The path of a leaf in words, and a value of the type with the sentinel in that leaf."""


def leaves(kind: Any, sentinel: str, seen: tuple[Any, ...] = ()) -> Iterator[Case]:
    """A case for each string leaf and each free name below `kind`; literals beside the path (type tags) are filled
    in, and so is `index`. A type is not entered again below itself."""
    origin = get_origin(kind)
    if origin in (Required, NotRequired, ReadOnly, Annotated):
        yield from leaves(get_args(kind)[0], sentinel, seen)
    elif origin in (typing.Union, types.UnionType):
        for option in get_args(kind):
            yield from leaves(option, sentinel, seen)
    elif isinstance(kind, typing.TypeAliasType) if hasattr(typing, "TypeAliasType") else False:
        yield from leaves(kind.__value__, sentinel, seen)
    elif origin is Literal or (isinstance(kind, type) and issubclass(kind, enum.Enum)) or kind is str:
        yield (), sentinel
    elif is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        if kind in seen:
            return
        fields = _fields(kind)
        filled = {name: value for name, field in fields.items() if (value := _tag(name, field)) is not None}
        for name, field in fields.items():
            for path, value in leaves(field, sentinel, (*seen, kind)):
                yield (name, *path), {**filled, name: value}
    elif kind is Any or kind is object:
        yield ("*",), {"k": [sentinel]}
        yield ("*name",), {sentinel: "v"}
    elif origin is dict or (origin is not None and "Mapping" in str(origin)):
        for path, value in leaves(get_args(kind)[1], sentinel, seen):
            yield ("*", *path), {"k": value}
        yield ("*name",), {sentinel: "v"}
    elif origin is not None:  # lists, iterables, sequences
        for item in get_args(kind):
            if item is not Ellipsis:
                for path, value in leaves(item, sentinel, seen):
                    yield path, [value]


def _fields(kind: Any) -> dict[str, Any]:
    if is_typeddict(kind):
        return typing.get_type_hints(kind, include_extras=True)
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}


def _tag(name: str, field: Any) -> Any:
    while get_origin(field) in (Required, NotRequired, ReadOnly, Annotated):
        field = get_args(field)[0]
    if name == "index":
        return 0
    return get_args(field)[0] if get_origin(field) is Literal else None


@pytest.fixture(scope="session")
def sdk_leaves() -> Callable[[Any, str], Iterator[Case]]:
    """`sdk_leaves(type, sentinel)` yields (path, value) for every string leaf and free name below the type."""
    return leaves
