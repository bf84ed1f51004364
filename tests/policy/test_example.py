"""policy.example.yaml loads without a finding and shows every key there is, the plugins' own included."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from llmshield import registry
from llmshield.policy import inspect
from llmshield.policy.root import PluginUse, PolicyFile

EXAMPLE = Path(__file__).parents[2] / "policy.example.yaml"


def _models(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation} | {
            model for info in annotation.model_fields.values() for model in _models(info.annotation)
        }
    return {model for argument in typing.get_args(annotation) for model in _models(argument)}


def _keys(model: type[BaseModel]) -> set[str]:
    return {info.alias or name for each in _models(model) for name, info in each.model_fields.items()}


def test_loads_clean() -> None:
    policy, findings = inspect(EXAMPLE)

    assert not findings, "\n".join(map(str, findings))
    assert policy is not None


@pytest.mark.parametrize("key", sorted(_keys(PolicyFile) | _keys(PluginUse)))
def test_shows(key: str) -> None:
    assert re.search(rf"(^|[\s{{#]){re.escape(key)}:", EXAMPLE.read_text(), re.MULTILINE), f"{key} is missing"


@pytest.mark.parametrize("name", registry.names("plugin"))
def test_shows_every_plugin_with_its_settings(name: str) -> None:
    """Each plugin's part runs from its `use:` to the next one; every setting stands in it, commented or not."""
    parts = re.split(
        r"(?m)^  (?:# )?- use: ", EXAMPLE.read_text().partition("\nplugins:")[2].partition("\noverrides:")[0]
    )
    part = next((part for part in parts if re.match(rf"{name}\b", part)), None)
    assert part is not None, f"`use: {name}` is missing"

    settings = registry.find("plugin", name).Settings
    missing = [
        key
        for key in sorted(_keys(settings))
        if not re.search(rf"(^|[\s{{#]){re.escape(key)}:", part, re.MULTILINE)
    ]
    assert not missing, f"{name}: {missing}"
