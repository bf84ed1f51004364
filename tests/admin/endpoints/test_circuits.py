"""Circuits by hand over the admin port, over a store and without one."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

ALONE = """
admin: {keys: {x: {key: "sha256:1a7a49d4c9dd6e4ad7ba9a3c2a0d37f5ad8bb0cb86ee0a8cbcd7a9ff5f8d5bd1", role: read}}}
providers: {a: {dialect: openai, circuit: {failures: 2}}, b: {dialect: openai}}
"""


@pytest.mark.parametrize("text", [None, ALONE], ids=["sqlite", "memory"])
@pytest.mark.parametrize("model", [None, "gpt-4o"])
async def test_open_close_and_reset(
    open_desk: Callable[..., AbstractAsyncContextManager[Any]], text: str | None, model: str | None
) -> None:
    token = "a-token-of-some-length"
    which = {"provider": "a"} if model is None else {"provider": "a", "model": model}
    async with open_desk(**({"text": text} if text else {}), token=token) as desk:
        circuits = desk.runtime.circuits
        opened = await desk.ask("POST", "/v1/circuits/open", {**which, "for": "10m"}, key=token)

        assert (200, "open") == (opened.status, opened.json["state"])
        assert circuits.permit("a", "gpt-4o") is None
        assert (circuits.permit("a", "other") is None) == (model is None)
        listed = await desk.ask("GET", "/v1/circuits?provider=a", key=token)
        assert "open" == listed.json["providers"][0]["state"]
        closed = await desk.ask("POST", "/v1/circuits/close", which, key=token)
        assert (200, "closed") == (closed.status, closed.json["state"])
        assert circuits.permit("a", "gpt-4o") is not None

        await desk.ask("POST", "/v1/circuits/open", {**which}, key=token)
        assert circuits.permit("a", "gpt-4o") is None
        assert 200 == (await desk.ask("POST", "/v1/circuits/reset", {}, key=token)).status
        assert circuits.permit("a", "gpt-4o") is not None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"provider": "nobody"}, 404),
        ({"provider": "b"}, 409),
        ({"provider": "a", "for": 5}, 422),
        ({"provider": "a", "for": "0s"}, 422),
        ({"provider": "a", "model": ""}, 422),
        ({}, 422),
    ],
)
async def test_refusals(desk: Any, body: dict[str, Any], status: int) -> None:
    assert status == (await desk.ask("POST", "/v1/circuits/open", body)).status
