"""The OpenAPI document says what is served, no more and no less."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from llmshield.admin.description import document
from llmshield.admin.problems import KINDS
from llmshield.admin.table import routes

DOCUMENT = json.loads(json.dumps(document()))


def test_it_has_every_route_and_no_other() -> None:
    described = {(method.upper(), path) for path, each in DOCUMENT["paths"].items() for method in each}

    assert described == {(each.method, each.path) for each in routes()}
    assert "3.1.0" == DOCUMENT["openapi"]


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*[references(each) for each in value.values()])
    return set().union(*[references(each) for each in value]) if isinstance(value, list) else set()


def test_its_references_lead_somewhere_and_its_schemas_are_some() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    assert {each.rsplit("/", 1)[-1] for each in references(DOCUMENT)} <= set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("route", routes(), ids=lambda each: each.name)
def test_an_operation_says_everything(route: Any) -> None:
    made = DOCUMENT["paths"][route.path][route.method.lower()]

    assert made["summary"]
    assert (route.role is not None) == bool(made["security"])
    assert str(route.status) in made["responses"]
    assert {"400", "421", "500", "503"} <= set(made["responses"])
    for parameter in made.get("parameters", ()):
        assert parameter["description"], parameter["name"]
    if route.body is not None:
        properties = DOCUMENT["components"]["schemas"][route.body.__name__].get("properties", {})
        assert [] == [name for name, each in properties.items() if not each.get("description")]


@pytest.mark.parametrize("route", routes(), ids=lambda each: each.name)
def test_an_operation_shows_what_to_send(route: Any) -> None:
    made = DOCUMENT["paths"][route.path][route.method.lower()]
    shown = {each["name"]: each["example"] for each in made.get("parameters", ()) if "example" in each}

    for parameter in made.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] != "id":  # a key's id is known only to who made it
            assert parameter["name"] in shown
        if "example" in parameter:
            schema = {**parameter["schema"], "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(parameter["example"])
    if route.body is not None:
        content = made["requestBody"]["content"]["application/json"]
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        Draft202012Validator(schema).validate(content["example"])


def test_every_code_has_a_meaning_of_its_own() -> None:
    assert len(KINDS) == len({kind.title for kind in KINDS.values()})
    assert all(400 <= kind.status < 600 for kind in KINDS.values())


async def test_it_is_served(desk: Any) -> None:
    said = await desk.ask("GET", "/openapi.json", key="read")

    assert (200, DOCUMENT) == (said.status, said.json)
    assert 401 == (await desk.ask("GET", "/openapi.json", key="")).status
