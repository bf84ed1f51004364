"""JSON Schema (draft 2020-12) of a policy, for editors: the models, and each plugin's settings under its `use`.

The schema knows the form; names that must exist and what is not built yet are for `llmshield check`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from llmshield import registry
from llmshield.errors import PluginError
from llmshield.policy.root import PluginUse, PolicyFile
from llmshield.policy.units import write_duration, write_fee, write_percent, write_price, write_size

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WRITERS: dict[str, Callable[[Any], str]] = {
    "duration": write_duration,
    "size": write_size,
    "percentage": write_percent,
    "USD per million tokens": write_price,
    "USD per call": write_fee,
}


def schema() -> dict[str, Any]:
    """The whole schema, with every plugin that is installed and can be imported."""
    out = PolicyFile.model_json_schema(schema_generator=_Generator)
    definitions: dict[str, Any] = out["$defs"]
    common = definitions.pop("PluginUse")
    forms = []
    for name in registry.names("plugin"):
        form, own = _plugin(name, common)
        forms.append(form)
        definitions.update(own)
    forms.append(_own_plugin(common))
    out["properties"]["plugins"]["items"] = {
        "type": "object",
        "required": ["use"],
        "properties": {"use": {"anyOf": [{"enum": registry.names("plugin")}, {"pattern": r"^\./.+\.py$"}]}},
        "oneOf": forms,
    }
    return {
        "$schema": DIALECT,
        "title": "llmshield policy",
        **{key: value for key, value in out.items() if key != "title"},
    }


def settings_schema(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """The schema of one model; with a prefix, its definitions are called `prefix.Model`."""
    template = f"#/$defs/{prefix}.{{model}}" if prefix else "#/$defs/{model}"
    return model.model_json_schema(schema_generator=_Generator, ref_template=template)


def _plugin(name: str, common: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The form of one `use:` and the definitions it needs; free settings where it can't be imported here."""
    try:
        plugin = registry.find("plugin", name)
    except PluginError:
        return _form(common, {"const": name}, {"additionalProperties": True}), {}
    settings = settings_schema(plugin.Settings, name)
    own = {f"{name}.{key}": value for key, value in settings.pop("$defs", {}).items()}
    settings.pop("title", None)
    doc = (sys.modules[plugin.__module__].__doc__ or "").strip().partition("\n")[0]
    return _form(common, {"const": name, "description": doc}, settings), own


def _own_plugin(common: dict[str, Any]) -> dict[str, Any]:
    use = {"type": "string", "pattern": r"^\./.+\.py$", "description": "Your own plugin, beside the policy."}
    return _form(common, use, {"additionalProperties": True})


def _form(common: dict[str, Any], use: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Common keys and the plugin's own side by side; its own may stand under `with` instead."""
    beside = {**settings.get("properties", {}), **common["properties"], "use": use}
    inside = {**{key: value for key, value in settings.items() if key != "required"}, "type": "object"}
    out = {
        "type": "object",
        "properties": {
            **beside,
            "with": {**inside, "description": "The plugin's settings, instead of beside `use`."},
        },
        "required": ["use"],
        "additionalProperties": settings.get("additionalProperties", False),
    }
    if needed := settings.get("required"):
        out["anyOf"] = [{"required": needed}, {"required": ["with"]}]
    return out


class _Generator(GenerateJsonSchema):
    """Spells defaults as a policy would: `10s` instead of 10.0, `127.0.0.1:8787` instead of an object."""

    schema_dialect = DIALECT

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        out = super().default_schema(schema)
        if "default" in out:
            default = schema.get("default")
            unit = self._unit(out)
            if unit in _WRITERS and default is not None:
                out["default"] = _WRITERS[unit](default)
            else:
                out["default"] = _spelt(default)
            if out["default"] is None or isinstance(out["default"], dict):
                del out["default"]  # absent is the default
        return out

    def _unit(self, schema: JsonSchemaValue) -> str:
        return str(schema.get("x-unit", ""))


def _spelt(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {}
    if dataclasses.is_dataclass(value):
        return str(value)
    if isinstance(value, tuple):
        return [_spelt(item) for item in value]
    return value


__all__ = ["PluginUse", "schema", "settings_schema"]
