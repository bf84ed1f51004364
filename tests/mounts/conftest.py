"""Serves an ASGI app on a real socket, in the test's own loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import uvicorn


@contextlib.asynccontextmanager
async def _serving(app: Any, lifespan: str = "auto") -> AsyncIterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan=lifespan, ws="none"))  # type: ignore[arg-type]
    running = asyncio.create_task(server.serve())
    while not server.started:
        if running.done():
            running.result()
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@pytest.fixture
def serving() -> Callable[..., AbstractAsyncContextManager[str]]:
    return _serving
