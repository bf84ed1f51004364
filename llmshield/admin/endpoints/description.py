"""What this port serves, for programs."""

from __future__ import annotations

import orjson

from llmshield.admin import description
from llmshield.admin.house import House
from llmshield.admin.table import Example, Page, route


@route(
    "GET", "/openapi.json", role="read", early=True,
    kinds={"application/openapi+json": "An OpenAPI 3.1 document."}, example=Example(),
)  # fmt: skip
async def openapi(house: House) -> Page:
    """Give the OpenAPI 3.1 description of this port.

    It is made of the table that serves.
    """
    return Page("application/openapi+json;version=3.1", orjson.dumps(description.document()))
