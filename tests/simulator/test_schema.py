"""Smallest instances, checked by validators that know better."""

import enum
from typing import Annotated, Literal

import pydantic
import pytest

from llmshield.simulator.schema import instance

CASES = [
    ({}, "text"),
    ({"type": "string"}, "text"),
    ({"type": "STRING", "format": "date-time"}, "2026-01-02T03:04:05Z"),
    ({"type": "string", "minLength": 6}, "textxx"),
    ({"type": "string", "maxLength": 2}, "te"),
    ({"type": "string", "pattern": "^[0-9]{3}$"}, "123"),
    ({"type": ["null", "integer"]}, 1),
    ({"type": "integer", "minimum": 5}, 5),
    ({"type": "integer", "exclusiveMinimum": 5}, 6),
    ({"type": "integer", "maximum": -5}, -5),
    ({"type": "integer", "exclusiveMaximum": 1}, 0),
    ({"type": "integer", "minimum": 5, "multipleOf": 4}, 8),
    ({"type": "number", "minimum": 0.5}, 0.5),
    ({"type": "boolean"}, True),
    ({"type": "null"}, None),
    ({"enum": ["b", "a"]}, "b"),
    ({"const": 7}, 7),
    ({"type": "integer", "default": 9}, 9),
    ({"type": "string", "examples": ["e"]}, "e"),
    ({"type": "array", "items": {"type": "integer"}}, []),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
    ({"prefixItems": [{"type": "null"}, {"const": 1}], "type": "array"}, [None, 1]),
    ({"properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}, {"a": 1}),
    ({"anyOf": [{"type": "null"}, {"const": 3}]}, 3),
    ({"oneOf": [{"type": "null"}]}, None),
    (
        {"allOf": [{"type": "object", "properties": {"a": {}}, "required": ["a"]}, {"required": []}]},
        {"a": "text"},
    ),
    ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"const": 1}}}, 1),
]


@pytest.mark.parametrize(("schema", "expected"), CASES)
def test_instances(schema, expected):
    assert expected == instance(schema)


def test_a_schema_without_end_ends():
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}

    assert isinstance(instance(tree), dict)


class Colour(enum.Enum):
    RED = "red"


class Inner(pydantic.BaseModel):
    mail: Annotated[str, pydantic.Field(pattern=r"^\S+@\S+$")]
    share: Annotated[float, pydantic.Field(gt=0, lt=1)]


class Outer(pydantic.BaseModel):
    name: Annotated[str, pydantic.Field(min_length=10)]
    kind: Literal["x", "y"]
    colour: Colour
    inner: Inner
    many: Annotated[list[Inner], pydantic.Field(min_length=1)]
    pair: tuple[int, str]
    maybe: Inner | None
    extra: dict[str, int]
    either: int | Inner


def test_pydantic_accepts_it():
    Outer.model_validate(instance(Outer.model_json_schema()))


def test_free_strings_can_be_given():
    assert instance(
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, "Ann"
    ) == {"a": "Ann"}
