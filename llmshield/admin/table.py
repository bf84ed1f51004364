"""The table of routes: what is served, who may ask it, and what goes in and out; serving and describing read the same.

    @route("POST", "/v1/blocks", role="operate", status=201)
    async def add_block(house: House, who: Officer, body: NewBlock) -> Block:
        '''Block an address, a network or a tenant.

        It holds in every process of the store within a second.
        '''

A handler's parameters say what it needs: `house` (what runs here), `who` asks, `path`, `query` and `body` (pydantic
models, validated before it runs), `asked` (the request's head). What it returns is the answer: a model, or a `Page`.
The first line of its docstring is the summary, the rest the description. Every module of `llmshield.admin.endpoints` is
read: adding an endpoint is adding a handler to the file of its subject, adding a subject is adding a file.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import UnionType
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from llmshield.policy.admin import Role

Handler = Callable[..., Awaitable[Any]]
H = TypeVar("H", bound=Handler)

_PACKAGE = "llmshield.admin.endpoints"
_ROUTES: list[Route] = []


class Page(NamedTuple):
    """An answer that is no JSON model; `status` replaces the route's, `headers` are added."""

    kind: str
    body: bytes
    status: int = 0
    headers: Mapping[str, str] = {}


class Asked(NamedTuple):
    """The head of a request."""

    method: str
    path: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:  # the head holds the credential
        return f"<Asked {self.method} {self.path!r}>"


@dataclass(slots=True, frozen=True)
class Route:
    """One line of the table. `role` None: whoever reaches the port. `early`: also before everything is started.
    `kinds` are the content types of pages that it may answer with, each with what it is. `says` are statuses with a
    body of their own, besides `status` and problems."""

    method: str
    path: str
    role: Role | None
    run: Handler
    status: int
    subject: str
    summary: str
    description: str
    wants: tuple[str, ...]
    path_model: type[BaseModel] | None
    query: type[BaseModel] | None
    body: type[BaseModel] | None
    answer: type[BaseModel] | None
    kinds: Mapping[str, str]
    says: Mapping[int, str]
    early: bool
    timeout_s: float
    example: Example | None
    steps: tuple[str, ...] = field(compare=False)

    @property
    def name(self) -> str:
        """The handler's name: the operation's id."""
        return self.run.__name__

    @property
    def changes(self) -> bool:
        """Whether it changes something."""
        return self.method != "GET"

    def match(self, steps: tuple[str, ...]) -> dict[str, str] | None:
        """The path's names where this path is the route's, else None."""
        found: dict[str, str] = {}
        if len(steps) != len(self.steps):
            return None
        for mine, given in zip(self.steps, steps, strict=True):
            if mine[:1] == "{":
                found[mine[1:-1]] = given
            elif mine != given:
                return None
        return found


class Example(NamedTuple):
    """A request for the documentation; a test sends it. `path` and `query` are as they stand in the URL."""

    path: str = ""
    query: str = ""
    body: Mapping[str, Any] | None = None


def route(
    method: str,
    path: str,
    *,
    role: Role | None,
    status: int = 200,
    kinds: Mapping[str, str] | None = None,
    says: Mapping[int, str] | None = None,
    early: bool = False,
    timeout_s: float = 10.0,
    example: Example | None = None,
) -> Callable[[H], H]:
    """Put a handler into the table."""

    def put(run: H) -> H:
        hints = typing.get_type_hints(run)
        wants = tuple(inspect.signature(run).parameters)
        summary, _, description = inspect.cleandoc(run.__doc__ or "").partition("\n\n")
        made = Route(
            method=method, path=path, role=role, run=run, status=status, subject=run.__module__.rpartition(".")[2],
            summary=summary.replace("\n", " "), description=description, wants=wants,
            path_model=hints.get("path"), query=hints.get("query"), body=hints.get("body"),
            answer=_model_in(hints.get("return")), kinds=dict(kinds or {}), says=dict(says or {}), early=early,
            timeout_s=timeout_s, example=example, steps=tuple(path.split("/")[1:]),
        )  # fmt: skip
        _check(made)
        _ROUTES.append(made)
        return run

    return put


@cache
def routes() -> tuple[Route, ...]:
    """Every route of the room, by path and method."""
    package = importlib.import_module(_PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{_PACKAGE}.{module.name}")
    return tuple(sorted(_ROUTES, key=lambda each: (each.path, each.method)))


def find(path: str) -> list[tuple[Route, dict[str, str]]]:
    """The routes of a path, whatever their method; those without a name in it before those with one."""
    steps = tuple(path.split("/")[1:])
    found = [(each, names) for each in routes() if (names := each.match(steps)) is not None]
    fewest = min((len(names) for _, names in found), default=0)
    return [(each, names) for each, names in found if len(names) == fewest]


def _model_in(hint: Any) -> type[BaseModel] | None:
    """The model among what a handler returns."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    models = [each for each in options if isinstance(each, type) and issubclass(each, BaseModel)]
    return models[0] if models else None


def _check(made: Route) -> None:
    """A mistake in the table is found when it is read. Raises: ValueError."""
    names = set(re.findall(r"{(\w+)}", made.path))
    modelled = set(made.path_model.model_fields) if made.path_model is not None else set()
    known = {"house", "who", "path", "query", "body", "asked"}
    wrong = [
        text
        for bad, text in (
            (names != modelled, "its path has other names than its path model"),
            (not set(made.wants) <= known, f"its parameters are not among {', '.join(sorted(known))}"),
            (made.body is not None and not made.changes, "a GET has no body"),
            (made.changes and made.role in (None, "read"), "whoever may only look changes nothing"),
            ("who" in made.wants and made.role is None, "nobody is known there"),
            (not made.summary, "it has no summary"),
            (
                any((each.method, each.path) == (made.method, made.path) for each in _ROUTES),
                "it is there already",
            ),
        )
        if bad
    ]
    if wrong:
        raise ValueError(f"{made.method} {made.path}: {'; '.join(wrong)}")
