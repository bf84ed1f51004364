"""A request on its way: door, credential, role, body, handler; and the same headers on every way out."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from llmshield.admin import app
from llmshield.admin.app import HEADERS
from llmshield.admin.table import routes
from llmshield.errors import StoreUnavailable

Open = Callable[..., AbstractAsyncContextManager[Any]]


def filled(path: str) -> str:
    return path.replace("{tenant}", "acme").replace("{id}", "0" * 12).replace("{provider}", "a")


@pytest.mark.parametrize("route", routes(), ids=lambda route: f"{route.method} {route.path}")
async def test_every_route_wants_its_role(desk: Any, route: Any) -> None:
    """The table is generated: a new route without a role, or one that a lower role can use, fails here."""
    path = filled(route.path)
    if route.role is None:
        assert (await desk.ask(route.method, path, key="")).status in {200, 503}
        return
    assert "unauthenticated" == (await desk.ask(route.method, path, key="")).code
    assert "unauthenticated" == (await desk.ask(route.method, path, key="wrong")).code
    below = {"read": [], "operate": ["read"], "admin": ["read", "operate"]}[route.role]
    for role in below:
        assert "forbidden" == (await desk.ask(route.method, path, {}, key=role)).code
    assert "forbidden" != (await desk.ask(route.method, path, {}, key=route.role)).code


@pytest.mark.parametrize("route", [each for each in routes() if each.changes], ids=lambda route: route.name)
async def test_nothing_is_changed_without_a_credential(open_desk: Open, route: Any) -> None:
    async with open_desk("providers: {a: {dialect: openai}}") as desk:
        said = await desk.ask(route.method, filled(route.path), {}, key="")

    assert "forbidden" == said.code
    assert "LLMSHIELD_ADMIN_TOKEN" in said.json["detail"]


REFUSALS = [
    ("GET", "/v1/nothing", {}, "not_found"),
    ("GET", "/", {}, "not_found"),
    ("GET", "/v1/blocks/", {}, "not_found"),
    ("GET", "/v1//blocks", {}, "bad_request"),
    ("GET", "/v1/%62locks", {}, "not_found"),
    ("GET", "/v1/../v1/blocks", {}, "bad_request"),
    ("GET", "/v1/blocks;x=1", {}, "bad_request"),
    ("GET", "/V1/blocks", {}, "not_found"),
    ("PUT", "/v1/blocks", {}, "method_not_allowed"),
    ("TRACE", "/v1/blocks", {}, "method_not_allowed"),
    ("OPTIONS", "/v1/blocks", {"origin": "http://127.0.0.1:9787"}, "method_not_allowed"),
    ("POST", "/v1/blocks", {"x_http_method_override": "DELETE"}, "invalid"),
    ("GET", "/v1/blocks?x=1", {}, "bad_request"),
    ("POST", "/v1/budgets/acme/unlock", {"raw": "{\"x\": 1}"}, "invalid"),
    ("POST", "/v1/budgets/acme/unlock", {"raw": "nonsense"}, "bad_request"),
    ("GET", "/v1/keys", {"host": "evil.example.com"}, "wrong_host"),
    ("POST", "/v1/blocks", {"origin": "https://evil.example.com"}, "cross_site"),
    ("POST", "/v1/blocks", {"content_type": "text/plain"}, "unsupported_media"),
    ("POST", "/v1/circuits/open", {"sec_fetch_site": "cross-site"}, "cross_site"),
    ("GET", "/v1/budgets/a b", {}, "bad_request"),
    ("GET", "/v1/budgets/a%2Fb", {}, "bad_request"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "headers", "code"), REFUSALS)
async def test_refusals(desk: Any, method: str, path: str, headers: dict[str, str], code: str) -> None:
    raw = headers.pop("raw").encode() if "raw" in (headers := dict(headers)) else None
    said = await desk.ask(method, path, {} if method == "POST" else None, raw=raw, **headers)

    if code == "not_found" and "%" in path:
        assert said.code in {"not_found", "bad_request"}
    else:
        assert code == said.code
    assert HEADERS.items() <= said.headers.items()
    assert said.status == said.json["status"]


async def test_what_is_allowed_is_told(desk: Any) -> None:
    said = await desk.ask("PUT", "/v1/blocks")

    assert "DELETE, GET, HEAD, POST" == said.headers["allow"]
    assert not [name for name in said.headers if name.startswith("access-control")]


async def test_a_body_has_a_limit(desk: Any) -> None:
    said = await desk.ask("POST", "/v1/blocks", raw=b'{"target": "' + b"x" * 70_000 + b'"}')

    assert (413, "too_large") == (said.status, said.code)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("sk-CANARY0123456789abcdefgh"), 500, "internal"),
        (StoreUnavailable("the store is away"), 503, "unavailable"),
        (TimeoutError(), 503, "unavailable"),
    ],
)
async def test_what_goes_wrong_inside(
    desk: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    async def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(desk.runtime.store, "notes", fails)
    said = await desk.ask("GET", "/v1/blocks")

    assert (status, code) == (said.status, said.code)
    assert b"CANARY" not in said.body


async def test_a_handler_has_a_time_and_the_port_has_places(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds no place is told so; health, readiness and counts need none."""
    held = asyncio.Event()

    async def waits(*_: Any) -> dict[str, bytes]:
        await held.wait()
        return {}

    monkeypatch.setattr(desk.runtime.store, "notes", waits)
    monkeypatch.setattr(app, "_PLACE_S", 0.05)
    busy = [asyncio.create_task(desk.ask("GET", "/v1/blocks")) for _ in range(app.PLACES)]
    await asyncio.sleep(0)
    said = await desk.ask("GET", "/v1/blocks")

    assert (503, "2") == (said.status, said.headers["retry-after"])
    assert [200] * 4 == [
        (await desk.ask("GET", path)).status for path in ("/healthz", "/readyz", "/metrics", "/status")
    ]
    held.set()
    assert {200} == {(await each).status for each in busy}
    assert 200 == (await desk.ask("GET", "/v1/blocks")).status


async def test_head_is_answered_as_get(desk: Any) -> None:
    assert 200 == (await desk.ask("HEAD", "/status")).status


async def test_a_try_without_the_right_is_recorded(desk: Any) -> None:
    await desk.ask("POST", "/v1/blocks", {"target": "192.0.2.7"}, key="read")
    (record,) = desk.records()

    assert ("add_block", "refused", "read") == (record["action"], record["outcome"], record["role"])


@pytest.mark.parametrize("route", [each for each in routes() if each.changes], ids=lambda route: route.name)
async def test_every_change_is_recorded_before_and_after(
    desk: Any, monkeypatch: pytest.MonkeyPatch, route: Any
) -> None:
    """The table is generated: a new route that changes something without its record fails here."""
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", secrets.token_urlsafe(32) + "=")
    key = (await desk.ask("POST", "/v1/keys", {"tenant": "acme"})).json["id"]
    await desk.ask("POST", "/v1/blocks", {"target": "192.0.2.7"})
    where, query = (
        (route.example.path or route.path).replace("openai", "a").replace("$ID", key),
        route.example.query,
    )
    body = {name: "a" if value == "openai" else value for name, value in (route.example.body or {}).items()}
    said = await desk.ask(route.method, f"{where}?{query}" if query else where, body if route.body else None)

    assert said.status in {200, 201}, said.body
    begun, done = desk.records()[-2:]
    assert ("begun", "done") == (begun["outcome"], done["outcome"])
    assert begun["action"] == done["action"] not in {"block.add", "key.create"} or route.name in {
        "add_block",
        "create_key",
    }
    assert "admin" == begun["role"]
