"""What an app of its own kind does around its answer, and who hears of it, is as it would be without the middleware."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.testing import policy

APPS = """
plugins: [{use: injection, scan: [user, output]}]
apps: [{paths: ["/api/chat"], texts: {request: ["/prompt"], reply: ["/answer"], stream: ["/delta"]}}]
"""


class Own:
    """An app with JSON of its own on `/api/chat`; the prompt says what it answers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.around: list[str] = []

    async def behind(self) -> None:
        self.events.append("begun")
        await asyncio.sleep(0.05)
        self.events.append("done")

    async def live(self, *, marked: bool) -> AsyncIterator[str]:
        yield 'data: {"delta": "hello"}\n\n'
        if marked:
            yield "data: [DONE]\n\n"
            await asyncio.sleep(1.2)  # longer than a connection's end is waited for
        self.events.append("kept")

    async def answer(self, request: Request) -> Response:
        said = (await request.json())["prompt"]
        behind = BackgroundTask(self.behind)
        if said == "raise":
            raise RuntimeError(f"a bug of the app with {said}, a prompt")
        if said == "cancelled":
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task
        if said == "wait":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.events.append("cancelled")
                raise
        if said in {"live", "marked"}:
            parts = self.live(marked=said == "marked")
            return StreamingResponse(parts, media_type="text/event-stream", background=behind)
        if said == "redirect":
            return RedirectResponse("/elsewhere", 303, background=behind)
        if said.isdigit():
            return Response(status_code=int(said), headers={"x-own": "1"}, background=behind)
        if said.startswith("no"):
            return JSONResponse({"detail": "no"}, int(said[2:]), background=behind)
        return JSONResponse({"answer": said}, background=behind)

    def app(self) -> Starlette:
        made = Starlette(routes=[Route("/api/chat", self.answer, methods=["POST"])])
        made.add_middleware(ShieldMiddleware, policy=policy(APPS))
        made.add_middleware(BaseHTTPMiddleware, dispatch=self.outside)
        return made

    async def outside(self, request: Request, call_next: Any) -> Any:
        try:
            reply = await call_next(request)
        except Exception as error:
            self.around.append(repr(error))
            raise
        self.around.append(str(reply.status_code))
        return reply


@pytest.mark.parametrize(
    ("said", "status", "events"),
    [
        ("hi", 200, ["begun", "done"]),
        ("live", 200, ["kept", "begun", "done"]),
        ("marked", 200, ["kept", "begun", "done"]),
        ("204", 204, ["begun", "done"]),
        ("205", 205, ["begun", "done"]),
        ("202", 202, ["begun", "done"]),
        ("redirect", 303, ["begun", "done"]),
        ("401", 401, ["begun", "done"]),
        ("no401", 401, ["begun", "done"]),
        ("no403", 403, ["begun", "done"]),  # a session that has ended, or Django's check of forged requests
        ("no418", 418, ["begun", "done"]),
    ],
)
async def test_an_apps_own_answers_and_what_it_does_behind_them_are_as_without_us(
    serving_app: Any, said: str, status: int, events: list[str]
) -> None:
    own = Own()
    async with serving_app(own.app()) as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/api/chat", json={"prompt": said}, allow_redirects=False) as reply:
            data = await reply.text()
            assert status == reply.status
            assert ("/elsewhere" if said == "redirect" else None) == reply.headers.get("location")
            assert ("1" if said.isdigit() else None) == reply.headers.get("x-own")
        if said.isdigit() or said == "redirect":
            assert "" == data
        for _ in range(400):
            if own.events == events:
                break
            await asyncio.sleep(0.01)

    assert events == own.events


@pytest.mark.parametrize(("said", "kind"), [("raise", "RuntimeError"), ("cancelled", "CancelledError")])
async def test_a_bug_of_the_app_is_told_without_its_words(
    serving_app: Any, caplog: pytest.LogCaptureFixture, said: str, kind: str
) -> None:
    """One that awaits a task which somebody cancelled made its client wait for the whole time of a call."""
    async with serving_app(Own().app()) as url, aiohttp.ClientSession() as http:
        patience = aiohttp.ClientTimeout(20)
        async with http.post(f"{url}/api/chat", json={"prompt": said}, timeout=patience) as reply:
            assert 503 == reply.status
    (line,) = [record.getMessage() for record in caplog.records if "app_raised" in record.getMessage()]

    assert kind in line
    assert f"{Path(__file__).name}:" in line
    assert "a prompt" not in line


async def test_a_client_that_leaves_early_cancels_the_app_and_is_no_bug_to_middleware_around_us(
    serving_app: Any,
) -> None:
    own = Own()
    async with serving_app(own.app()) as url, aiohttp.ClientSession() as http:
        with contextlib.suppress(TimeoutError):
            await http.post(f"{url}/api/chat", json={"prompt": "wait"}, timeout=aiohttp.ClientTimeout(0.3))
        for _ in range(300):
            if own.around and own.events:
                break
            await asyncio.sleep(0.01)

    assert ["499"] == own.around
    assert ["cancelled"] == own.events
