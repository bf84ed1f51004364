"""The document's content is tests/admin/test_description.py; here, how it is served."""

from typing import Any


async def test_its_type(desk: Any) -> None:
    said = await desk.ask("GET", "/openapi.json", key="read")

    assert "application/openapi+json;version=3.1" == said.headers["content-type"]
