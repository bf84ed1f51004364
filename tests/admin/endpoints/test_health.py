"""Health and readiness for everybody, counts for those who may look."""

from typing import Any

from llmshield.admin.app import AdminApi
from llmshield.runtime import Runtime
from llmshield.testing import policy


async def test_before_everything_is_started() -> None:
    runtime = Runtime(policy("plugins: []"), mount="gateway")
    api = AdminApi(runtime, token="a-token-of-some-length")
    head = [(b"host", b"localhost"), (b"authorization", b"Bearer a-token-of-some-length")]

    async def none(limit: int) -> bytes:
        return b""

    said = {
        path: (await api.answer("GET", path.encode(), b"", head, "127.0.0.1", none)).status
        for path in ("/healthz", "/readyz", "/metrics", "/status", "/v1/blocks", "/usage")
    }
    await runtime.close()

    assert {
        "/healthz": 200, "/readyz": 503, "/metrics": 200, "/status": 200, "/v1/blocks": 503, "/usage": 503,
    } == said  # fmt: skip


async def test_health_is_everybodys(desk: Any) -> None:
    for path, body in (("/healthz", {"status": "ok"}), ("/readyz", {"status": "ready"})):
        said = await desk.ask("GET", path, key="", peer="10.0.0.7")

        assert (200, body) == (said.status, said.json)


async def test_metrics(desk: Any) -> None:
    said = await desk.ask("GET", "/metrics", key="read")

    assert "text/plain; version=0.0.4; charset=utf-8" == said.headers["content-type"]
    assert b"llmshield_build_info" in said.body
