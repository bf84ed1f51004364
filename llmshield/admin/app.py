"""Serving the table: entrance > route > access > role > body > handler > answer. Every path out has the same headers.

Nothing here waits without an end: a request has a number of places, a body a size and a time, a handler a time. Store
calls are awaited, what computes leaves the event loop, so that this port answers while the data port is busy, and the
data port while somebody adds up a year.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from pydantic import BaseModel

from llmshield.admin.access import Access, Officer
from llmshield.admin.entrance import Entrance, check_type
from llmshield.admin.house import House
from llmshield.admin.problems import MEDIA_TYPE, Code, Problem
from llmshield.admin.reading import BODY_LIMIT, read_body, read_path, read_query
from llmshield.admin.shapes import Nothing
from llmshield.admin.table import Asked, Page, Route, find
from llmshield.errors import CallError, ShieldError, StoreError
from llmshield.logs import log
from llmshield.runtime import Runtime
from llmshield.traffic import canonical_path, checked_query

PLACES, LONG_PLACES = 16, 2
"""Requests that are answered at the same time, and those among them that may take long; further ones wait, `_PLACE_S` at
most. Health, readiness and counts need no place: whoever adds up a year must not have the gateway restarted."""
_LONG_S = 20.0
_PLACE_S = 5.0
JSON = "application/json"

HEADERS: Mapping[str, str] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every answer: nothing is kept, nothing runs, nothing is framed, whatever a browser takes it for."""

BodyReader: TypeAlias = Callable[[int], Awaitable[bytes]]
"""Reads the whole body, up to so many bytes. Raises: CallError `too_large`, `client_timeout`."""

_CALL_CODES: Mapping[str, Code] = {
    "too_large": "too_large",
    "client_timeout": "client_timeout",
    "bad_request": "bad_request",
}


class AdminApi:
    """The admin API over one runtime. `names` are further names of this port, `token` LLMSHIELD_ADMIN_TOKEN."""

    def __init__(self, runtime: Runtime, *, token: str, names: Iterable[str] = ()) -> None:
        settings = runtime.policy.admin
        self._runtime = runtime
        self._house = House(runtime)
        self._access = Access(settings, runtime.policy.base or Path(), token)
        self._entrance = Entrance((*settings.hosts, *names))
        self._places = asyncio.Semaphore(PLACES)
        self._long_places = asyncio.Semaphore(LONG_PLACES)

    async def start(self) -> None:
        """Get what credentials are checked with. Raises: ShieldError with the remedy."""
        await self._access.start()

    async def close(self) -> None:
        """Let go of it."""
        await self._access.close()

    async def answer(
        self, method: str, raw_path: bytes, raw_query: bytes, headers: Iterable[tuple[bytes, bytes]], peer: str,
        body: BodyReader,
    ) -> Page:  # fmt: skip
        """The answer to one request; its headers are complete but for the length."""
        try:
            page = await self._served(method, raw_path, raw_query, headers, peer, body)
        except Problem as problem:
            page = Page(MEDIA_TYPE, problem.body() + b"\n", problem.status, problem.headers)
        return page._replace(headers={"content-type": page.kind, **HEADERS, **page.headers})

    async def _served(
        self,
        method: str,
        raw_path: bytes,
        raw_query: bytes,
        raw: Iterable[tuple[bytes, bytes]],
        peer: str,
        body: BodyReader,
    ) -> Page:
        headers = self._entrance.check(raw)
        try:
            path, query = canonical_path(raw_path), checked_query(raw_query)
        except CallError as error:
            raise Problem("bad_request", error.message) from None
        there = find(path)
        wanted = "GET" if method == "HEAD" else method
        found = next(((route, names) for route, names in there if route.method == wanted), None)
        who = None
        if found is None or found[0].role is not None:
            who = await self._access.officer(headers, peer)
        if found is None:
            raise _no_route(path, method, {route.method for route, _ in there})
        route, names = found
        if who is not None and route.role is not None and not who.may(route.role):
            if route.changes:
                await self._house.refused(who, route.name)
            raise Problem(
                "forbidden",
                f"This wants the role `{route.role}`; {who.name} has `{who.role}`."
                + (" Changes want a credential: set LLMSHIELD_ADMIN_TOKEN, or `admin.keys` in the policy."
                   if self._access.open else ""),
            )  # fmt: skip
        check_type(method, headers)
        given = await self._given(route, names, query, body, who, Asked(method, path, headers))
        if route.early:
            return await self._run(route, given)
        places = self._long_places if route.timeout_s > _LONG_S else self._places
        try:
            async with asyncio.timeout(_PLACE_S):
                await places.acquire()
        except TimeoutError:
            raise Problem(
                "unavailable", "Too many requests are under way; try again.", headers=_SOON
            ) from None
        try:
            return await self._run(route, given)
        finally:
            places.release()

    async def _given(
        self,
        route: Route,
        names: Mapping[str, str],
        query: str,
        body: BodyReader,
        who: Officer | None,
        asked: Asked,
    ) -> dict[str, Any]:
        """The arguments of a handler, validated. Raises: Problem."""
        given: dict[str, Any] = {"house": self._house, "who": who, "asked": asked}
        if route.path_model is not None:
            given["path"] = read_path(route.path_model, names)
        if route.query is not None:
            given["query"] = read_query(route.query, query)
        elif query:
            raise Problem("bad_request", "This takes no query.")
        if route.changes:
            try:
                data: bytes = await body(BODY_LIMIT)
            except CallError as error:
                code = _CALL_CODES.get(error.kind, "bad_request")
                raise Problem(code, error.message, headers=error.headers) from None
            if route.body is not None:
                given["body"] = read_body(route.body, data)
            elif data:
                read_body(Nothing, data)
        if not route.early and not self._runtime.started:
            raise Problem("unavailable", "The gateway is starting; try again.", headers=_SOON)
        return {name: given[name] for name in route.wants}

    async def _run(self, route: Route, given: Mapping[str, Any]) -> Page:
        try:
            async with asyncio.timeout(route.timeout_s):
                made = await route.run(**given)
        except Problem:
            raise
        except TimeoutError:
            raise Problem(
                "unavailable", f"It was not done within {route.timeout_s:g} s.", headers=_SOON
            ) from None
        except StoreError as error:
            raise Problem("unavailable", str(error), headers=_SOON) from None
        except ShieldError as error:
            raise Problem("conflict", str(error)) from None
        except Exception as error:  # noqa: BLE001  the last line: whoever asks gets an answer
            log.exception("admin_failed", error, path=route.path, method=route.method)
            raise Problem("internal", "The gateway failed; its log says where.") from None
        if isinstance(made, Page):
            return made if made.status else made._replace(status=route.status)
        assert isinstance(made, BaseModel)
        body = (
            orjson.dumps(
                made.model_dump(mode="json", by_alias=True, exclude_unset=True), option=orjson.OPT_INDENT_2
            )
            + b"\n"
        )
        return Page(JSON, body, route.status)


_SOON: Mapping[str, str] = {"retry-after": "2"}


def _no_route(path: str, method: str, methods: set[str]) -> Problem:
    if not methods:
        return Problem("not_found", "No such path; /openapi.json has them all.")
    if "GET" in methods:
        methods.add("HEAD")
    allowed = ", ".join(sorted(methods))
    return Problem(
        "method_not_allowed",
        f"{method[:20]!r} is not served here: {allowed} are.",
        headers={"allow": allowed},
    )
