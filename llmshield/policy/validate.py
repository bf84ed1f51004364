"""pydantic's errors -> findings: one sentence each, with what was found, what was expected, and a hint.

The policy is validated piece by piece (each provider, route, plugin, ... by itself), so that one broken piece
hides nothing about the others.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from llmshield.policy.findings import Path
from llmshield.policy.masking import found, is_secret_key, mask_tokens
from llmshield.policy.report import Report
from llmshield.policy.root import PolicyFile
from llmshield.policy.section import NAME

_OWN_CODES = {
    "literal_secret": "LS309",
    "key_hash": "LS311",
    "identify": "LS305",
    "choice": "LS203",
    "twice": "LS205",
    "unit": "LS206",
    "date": "LS206",
    "network": "LS206",
    "time_zone": "LS206",
}
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "mapping_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
}
_BOUNDS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} at the most",
    "string_too_short": "{min_length} characters or more",
    "string_too_long": "{max_length} characters at the most",
    "too_short": "{min_length} entries or more",
    "too_long": "{max_length} entries at the most",
    "finite_number": "a finite number",
    "multiple_of": "a multiple of {multiple_of}",
}
_PATTERNS = {
    NAME: "a name of letters, digits, dot, underscore and hyphen, 64 at the most",
    r"^/": "a path that starts with /",
    r"^(\*|https?://[^/\s]+)$": "an origin such as https://app.example.com, or *",
    r"^[a-z][a-z0-9+]*://\S*$": "memory://, sqlite:///path or redis://host:6379/0",
    r"^(/([^~/]|~0|~1)*)+$": "a JSON pointer such as /history/*/text",
    r"^(file://\S+|stdout|stderr|none)$": "file://path, stdout, stderr or none",
    r"^(p[1-9][0-9]|[0-9]+(ms|s))$": "a percentile such as p95 or a duration such as 2s",
    r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$": "a host name without port",
}

_QUOTED = re.compile(r"'([^'\n]{1,80})'")


@dataclass(slots=True)
class Draft:
    """A policy under inspection: what is valid of each section.

    `sections` holds the value of every key of PolicyFile: for mappings and lists their valid items by name or
    index, for the rest the model (its default where it is missing or broken). `tree` is the plain data.
    """

    tree: dict[str, Any]
    sections: dict[str, Any] = field(default_factory=dict)

    def items(self, section: str) -> dict[Any, Any]:
        """The valid items of a section by their name or index."""
        return typing.cast(dict[Any, Any], self.sections[section])

    def written(self, section: str) -> list[str]:
        """The names in a mapping as they are written, valid or not."""
        value = self.tree.get(section)
        return list(value) if isinstance(value, dict) else []


def draft(tree: dict[str, Any], report: Report) -> Draft:
    """Validate every section and item by itself; findings go to the report."""
    out = Draft(tree)
    for key in tree:
        if key not in PolicyFile.model_fields:
            _unknown(report, (key,), list(PolicyFile.model_fields))
    for key, info in PolicyFile.model_fields.items():
        item_type = _item_type(info.annotation)
        if key not in tree:
            default = info.default
            if item_type is not None:
                # The items of a default (a tuple, a mapping) take the form that written items have.
                default = dict(default) if isinstance(default, Mapping) else dict(enumerate(default or ()))
            out.sections[key] = default
        elif item_type is None:
            out.sections[key] = check(report, key, info.annotation, tree[key], (key,), info.default)
        else:
            out.sections[key] = _items(report, info.annotation, item_type, tree[key], (key,))
    return out


def check(report: Report, name: str, annotation: Any, value: Any, path: Path, default: Any = None) -> Any:
    """`value` as `annotation` wants it; with findings, the default."""
    try:
        return _adapter(name, annotation).validate_python(value)
    except ValidationError as error:
        add_errors(report, error, path, annotation)
        return default


def add_errors(
    report: Report,
    error: ValidationError,
    path: Path,
    model: Any,
    relocate: Callable[[Path], Path] = lambda loc: loc,
    also: tuple[str, ...] = (),
) -> None:
    """Turn each error of `model` at `path` into a finding.

    `relocate` maps places in the model to places in the policy; `also` are keys that may stand beside the
    model's own, for hints.
    """
    for item in error.errors(include_url=False):
        _add(report, item, path, model, relocate, also)


def _items(report: Report, annotation: Any, item_type: Any, value: Any, path: Path) -> dict[Any, Any]:
    """The valid items of a list or mapping by their index or name."""
    out: dict[Any, Any] = {}
    is_mapping = typing.get_origin(annotation) is dict
    if not isinstance(value, dict if is_mapping else list):
        expected = "a mapping" if is_mapping else "a list"
        report.add("LS204", path, f"found {found(value)}, expected {expected}")
        return out
    pairs: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        if isinstance(key, str) and not re.fullmatch(NAME, key):
            report.add("LS206", (*path, key), f"found {found(key)}, expected {_PATTERNS[NAME]}", at="key")
        valid = check(report, f"{path[0]}[]", item_type, item, (*path, key))
        if valid is not None:
            out[key] = valid
    return out


def _add(
    report: Report,
    error: Any,
    path: Path,
    model: Any,
    relocate: Callable[[Path], Path],
    also: tuple[str, ...],
) -> None:
    """One error of pydantic as one finding; `ctx` of our own errors brings code, hint and choices."""
    kind: str = error["type"]
    context: dict[str, Any] = error.get("ctx") or {}
    loc: Path = tuple(step for step in error["loc"] if step != "[key]")
    full: Path = (*path, *relocate(loc))
    shown = "a literal" if _is_secret(full) else found(error["input"])
    hint = str(context.get("hint", ""))
    if kind == "extra_forbidden":
        _unknown(report, full, _keys_at(model, loc[:-1]) + list(also if len(loc) == 1 else ()))
    elif kind == "missing":
        report.add("LS202", full, f"the key {full[-1]!r} is missing", at="key")
    elif kind in _OWN_CODES:
        if not hint and isinstance(error["input"], str):
            choices = context.get("choices", ())
            hint = report.suggest(error["input"], choices) if choices else ""
        report.add(_OWN_CODES[kind], full, error["msg"], hint)
    elif kind in ("literal_error", "enum"):
        expected = str(context.get("expected", ""))
        choices = re.findall(r"'([^']*)'", expected)
        hint = report.suggest(error["input"], choices) if isinstance(error["input"], str) else ""
        if isinstance(error["input"], str) and error["input"].isdigit() and error["input"] in expected:
            hint = "a number has no quotes"
        report.add("LS203", full, f"found {shown}, expected {expected.replace(chr(39), '')}", hint)
    elif kind in _KINDS:
        hint = "quote it" if kind == "string_type" and isinstance(error["input"], int | float) else ""
        report.add("LS204", full, f"found {shown}, expected {_KINDS[kind]}", hint)
    elif kind in _BOUNDS:
        report.add("LS205", full, f"found {shown}, expected {_BOUNDS[kind].format(**context)}")
    elif kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        report.add("LS206", full, f"found {shown}, expected {_PATTERNS.get(pattern, f'text like {pattern}')}")
    else:
        # What a plugin's own validators say: their sentence, scrubbed, since it may quote the value.
        message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        place = report.named(full, _QUOTED.findall(message[:500]))
        report.add("LS206", place, message, at="value" if place == full else "key")


def _unknown(report: Report, path: Path, known: list[str]) -> None:
    """An unknown key, with the nearest of those that may stand there."""
    hint = report.suggest(str(path[-1]), known)
    report.add("LS201", path, f"unknown key {mask_tokens(str(path[-1]))[:60]!r}", hint, at="key")


def _keys_at(model: Any, path: Path) -> list[str]:
    """The keys that may stand at `path` inside a model; empty where they are free."""
    models = _models(model)
    for step in path:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            for key, info in candidate.model_fields.items():
                if isinstance(step, str) and step in (key, info.alias):
                    inner.extend(_models(info.annotation))
        models = inner or models  # an index or a free name: the items' models were already taken
    return [info.alias or key for candidate in models for key, info in candidate.model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model inside an annotation: through lists, mappings, unions and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments: Iterable[Any] = typing.get_args(annotation)
    return [model for argument in arguments for model in _models(argument)]


def _item_type(annotation: Any) -> Any:
    """The type of a section's items, or None for a section that is one thing."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return arguments[1]
    return arguments[0] if origin is tuple else None


_adapters: dict[str, TypeAdapter[Any]] = {}


def _adapter(name: str, annotation: Any) -> TypeAdapter[Any]:
    """The validator for a section or its items; built once for each name of a section."""
    if name not in _adapters:
        _adapters[name] = TypeAdapter(annotation)
    return _adapters[name]


@cache
def _is_secret(path: Path) -> bool:
    return any(isinstance(step, str) and is_secret_key(step) for step in path)
