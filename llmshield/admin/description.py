"""The OpenAPI 3.1 document of the admin API, made of the table that serves it."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import parse_qsl

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from llmshield import __version__
from llmshield.admin.problems import KINDS, MEDIA_TYPE, Code, ProblemDetails
from llmshield.admin.table import Route, routes

_REFERENCE = "#/components/schemas/{model}"
_ALWAYS: tuple[Code, ...] = ("bad_request", "wrong_host", "cross_site", "unavailable", "internal")
_CREDENTIAL: tuple[Code, ...] = ("unauthenticated", "forbidden", "too_many_attempts")
_VALUES: tuple[Code, ...] = ("invalid",)
_CHANGES: tuple[Code, ...] = ("conflict", "client_timeout", "too_large", "unsupported_media")
_THINGS: tuple[Code, ...] = ("not_found", "conflict")


@cache
def document() -> dict[str, Any]:
    """The document, as JSON has it."""
    models: dict[type[BaseModel], Any] = {ProblemDetails: None}
    for each in routes():
        for model in (each.body, each.answer):
            if model is not None:
                models[model] = None
    # What a model does not have to be given, it does not have to tell either: answers leave out what was not set.
    _, schemas = models_json_schema(
        [(model, "validation") for model in models], by_alias=True, ref_template=_REFERENCE
    )
    paths: dict[str, Any] = {}
    for each in routes():
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmshield admin API",
            "version": __version__,
            "description": "What operators see and change of a running gateway. Errors are problem details (RFC 9457).",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": subject} for subject in dict.fromkeys(each.subject for each in routes())],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "credential": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An admin key, a token of the policy's issuer, or LLMSHIELD_ADMIN_TOKEN.",
                }
            },
        },
    }


def problems_of(route: Route) -> tuple[Code, ...]:
    """The codes that a route may answer with."""
    codes: tuple[Code, ...] = _ALWAYS
    if route.role is not None:
        codes += _CREDENTIAL
    if route.path_model is not None or route.query is not None or route.changes:
        codes += _VALUES
    if route.changes:
        codes += _CHANGES
    if route.path.startswith("/v1/"):
        codes += _THINGS
    return tuple(dict.fromkeys(codes))


def _operation(route: Route) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.subject],
        "summary": route.summary,
        "description": route.description,
        "responses": _responses(route),
    }
    if route.role is not None:
        made["security"] = [{"credential": []}]
        made["x-role"] = route.role
    else:
        made["security"] = []
    shown = _shown(route)
    parameters = [
        *_parameters(route.path_model, "path", shown),
        *_parameters(route.query, "query", shown),
    ]
    if parameters:
        made["parameters"] = parameters
    if route.body is not None:
        content: dict[str, Any] = {"schema": {"$ref": _REFERENCE.format(model=route.body.__name__)}}
        if route.example is not None and route.example.body is not None:
            content["example"] = dict(route.example.body)
        made["requestBody"] = {"required": True, "content": {"application/json": content}}
    elif route.method == "POST":
        nothing = {"type": "object", "additionalProperties": False}
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": nothing}}}
    return made


def _shown(route: Route) -> dict[str, str]:
    """The example's values of the path and of the query, by name; `$NAME` stands for what only a caller has."""
    if route.example is None:
        return {}
    values = dict(parse_qsl(route.example.query))
    if route.example.path:
        values |= route.match(tuple(route.example.path.split("/")[1:])) or {}
    return {name: value for name, value in values.items() if not value.startswith("$")}


def _parameters(model: type[BaseModel] | None, place: str, shown: dict[str, str]) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema(by_alias=True)
    assert "$defs" not in schema, "a path and a query hold plain values"
    required = schema.get("required", ())
    out = []
    for name, each in schema["properties"].items():
        each.pop("title", None)
        description = each.pop("description", "")
        # `null` is said by leaving it out.
        options = [option for option in each.get("anyOf", ()) if option.get("type") != "null"]
        if len(options) == 1:
            each = {
                **{key: value for key, value in each.items() if key not in {"anyOf", "default"}},
                **options[0],
            }
        out.append(
            {"name": name, "in": place, "required": name in required or place == "path", "description": description,
             "schema": each, **({"example": shown[name]} if name in shown else {})}
        )  # fmt: skip
    return out


def _responses(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.answer is not None:
        content["application/json"] = {"schema": {"$ref": _REFERENCE.format(model=route.answer.__name__)}}
    for kind in route.kinds:
        content[kind] = {"schema": {"type": "object"} if kind.endswith("json") else {"type": "string"}}
    said = "; ".join(route.kinds.values())
    out: dict[str, Any] = {str(route.status): {"description": said or "Done.", "content": content}}
    for status, meaning in route.says.items():
        assert route.answer is not None
        schema = {"$ref": _REFERENCE.format(model=route.answer.__name__)}
        out[str(status)] = {"description": meaning, "content": {"application/json": {"schema": schema}}}
    problem = {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(model="ProblemDetails")}}}
    by_status: dict[int, list[Code]] = {}
    for code in problems_of(route):
        by_status.setdefault(KINDS[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        words = " ".join(f"`{code}`: {KINDS[code].title}" for code in codes)
        if str(status) in out:
            out[str(status)]["content"].update(problem)
            out[str(status)]["description"] += f" {words}"
        else:
            out[str(status)] = {"description": words, "content": problem}
        if status == 429:
            out["429"]["headers"] = {
                "Retry-After": {"description": "Seconds until the next try.", "schema": {"type": "string"}}
            }
    return out
