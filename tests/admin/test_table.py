"""The table: what it takes, what it refuses, and how a path finds its line."""

from typing import Any

import pytest

from llmshield.admin import table
from llmshield.admin.shapes import Query, Shape
from llmshield.admin.table import find, route, routes


class Named(Query):
    name: str


class Body(Shape):
    name: str


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    routes()
    monkeypatch.setattr(table, "_ROUTES", [])


async def _silent(house: Any) -> None: ...


async def _looks(house: Any, path: Named) -> Body:
    """Look."""
    return Body(name=path.name)


async def _unknown(house: Any, cookie: str) -> Body:
    """Look."""
    return Body(name=cookie)


async def _takes(house: Any, body: Body) -> Body:
    """Take."""
    return body


async def _who(house: Any, who: Any) -> Body:
    """Look."""
    return Body(name=who.name)


MISTAKES = [
    ("GET", "/x", "read", _silent, "no summary"),
    ("GET", "/x", "read", _looks, "other names"),
    ("GET", "/x/{other}", "read", _looks, "other names"),
    ("GET", "/x", "read", _unknown, "parameters"),
    ("GET", "/x", "read", _takes, "no body"),
    ("POST", "/x", "read", _takes, "changes nothing"),
    ("POST", "/x", None, _takes, "changes nothing"),
    ("GET", "/x", None, _who, "nobody is known"),
]


@pytest.mark.parametrize(("method", "path", "role", "run", "what"), MISTAKES)
def test_mistakes_are_found_at_once(method: str, path: str, role: Any, run: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        route(method, path, role=role)(run)


def test_a_route_stands_once() -> None:
    route("GET", "/x/{name}", role="read")(_looks)
    with pytest.raises(ValueError, match="there already"):
        route("GET", "/x/{name}", role="read")(_looks)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/budgets", {"GET /v1/budgets"}),
        ("/v1/budgets/acme", {"GET /v1/budgets/{tenant}"}),
        ("/v1/budgets/acme/raise", {"POST /v1/budgets/{tenant}/raise"}),
        ("/v1/blocks", {"GET /v1/blocks", "POST /v1/blocks", "DELETE /v1/blocks"}),
        ("/v1/budgets/acme/raise/more", set()),
        ("/", set()),
        ("", set()),
    ],
)
def test_paths(path: str, found: set[str]) -> None:
    assert found == {f"{each.method} {each.path}" for each, _ in find(path)}


def test_every_route_has_a_name_of_its_own_and_an_example() -> None:
    names = [each.name for each in routes()]

    assert len(names) == len(set(names))
    assert [] == [each.name for each in routes() if each.example is None]
