"""The JSON Schema: accepts the example, refuses what check refuses for its form, and knows every plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmshield import registry
from llmshield.policy.nodes import read
from llmshield.policy.schema import DIALECT, schema

EXAMPLE = Path(__file__).parents[2] / "policy.example.yaml"
WHOLE = Path(__file__).parent / "data" / "whole.yaml"


@pytest.fixture(scope="module")
def validator() -> Any:
    built = schema()
    jsonschema.Draft202012Validator.check_schema(built)
    return jsonschema.Draft202012Validator(built)


def _tree(text: str) -> Any:
    root, flaws = read(text)
    assert root is not None
    assert flaws == []
    return root.plain()


@pytest.mark.parametrize("path", [EXAMPLE, WHOLE], ids=["example", "whole"])
def test_accepts(path: Path, validator: Any) -> None:
    assert [
        f"{list(error.path)}: {error.message}" for error in validator.iter_errors(_tree(path.read_text()))
    ] == []


@pytest.mark.parametrize(
    "text",
    [
        "version: 2",
        "version: 1\nserverr: {}",
        "version: 1\nserver: {listen: 5}",
        "version: 1\nserver: {limits: {body: 10}}",
        "version: 1\ndefaults: {mode: of}",
        "version: 1\nproviders: {a: {dialect: x}}",
        "version: 1\nproviders: {a: {dialect: openai, api_key: plain}}",
        "version: 1\nroutes: [{to: [a]}]",
        "version: 1\nroutes: [{match: {any: false}, to: [a]}]",
        "version: 1\ntenants: {a: {keys: [x]}}",
        "version: 1\ntiers: {a: {budget: 5}}",
        "version: 1\nplugins: [{use: no_such_plugin}]",
        "version: 1\nplugins: [{}]",
        "version: 1\nplugins: [{use: ./x.py, mode: of}]",
        "version: 1\naudit: {sink: x}",
    ],
)
def test_refuses(text: str, validator: Any) -> None:
    assert not validator.is_valid(_tree(text))


def test_refuses_unknown_settings_of_each_plugin(validator: Any) -> None:
    for name in registry.names("plugin"):
        assert validator.is_valid({"version": 1, "plugins": [{"use": name, "with": {}}]}), name
        assert not validator.is_valid({"version": 1, "plugins": [{"use": name, "no_such_setting": 1}]}), name
        assert not validator.is_valid(
            {"version": 1, "plugins": [{"use": name, "with": {"no_such_setting": 1}}]}
        ), name


def test_forms() -> None:
    built = schema()
    uses = [
        form["properties"]["use"].get("const") for form in built["properties"]["plugins"]["items"]["oneOf"]
    ]

    assert built["$schema"] == DIALECT
    assert built["$defs"]["Hedge"]["properties"]["max_extra_cost"]["default"] == "20%"
    assert [*registry.names("plugin"), None] == uses
    assert built["$defs"]["Limits"]["properties"]["body"]["default"] == "10MiB"
    assert built["$defs"]["Defaults"]["properties"]["timeout"]["default"] == "300ms"
    assert built["$defs"]["Server"]["properties"]["listen"]["default"] == "127.0.0.1:8787"
