"""A gateway's runtime with the admin API over it, asked without sockets; those are tests/mounts' and the fuzz test's."""

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from llmshield.admin.app import AdminApi
from llmshield.errors import CallError
from llmshield.runtime import Runtime
from llmshield.testing import policy

ROLES = {"read": "key-that-may-read", "operate": "key-that-may-operate", "admin": "key-that-may-all"}
KEYS = "\n".join(
    f"    {role}-key: {{key: 'sha256:{hashlib.sha256(key.encode()).hexdigest()}', role: {role}}}"
    for role, key in ROLES.items()
)
POLICY = f"""
server: {{store: "sqlite:///{{folder}}/book.db", state_dir: "{{folder}}/state"}}
audit: {{sink: "file://{{folder}}/audit.jsonl"}}
admin:
  keys:
{KEYS}
  configure: [api_key, timeout, models]
providers:
  a: {{dialect: openai, base_url: "{{url}}/v1", api_key: "env://KEY_OF_A", circuit: {{failures: 2, open_for: 60s}}}}
  b: {{dialect: openai, base_url: "{{url}}/v1", api_key: "env://KEY_OF_A"}}
tenants:
  acme: {{tier: pro}}
tiers: {{pro: {{budget: [5 USD/day, 50 USD/month]}}, free: {{budget: 1 USD/day}}}}
plugins: [{{use: cost_cap}}]
"""


class Said(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str | None:
        code: str | None = self.json["code"] if "problem" in self.headers["content-type"] else None
        return code


class Desk:
    """Asks the admin API; `key` is a role, a literal credential, or "" for none."""

    def __init__(self, api: AdminApi, runtime: Runtime, folder: Path) -> None:
        self.api = api
        self.runtime = runtime
        self.folder = folder

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str = "admin",
        peer: str = "127.0.0.1",
        raw: bytes | None = None,
        **headers: str,
    ) -> Said:
        data = raw if raw is not None else b"" if body is None else orjson.dumps(body)
        given = {"host": "127.0.0.1:9787"}
        if key:
            given["authorization"] = f"Bearer {ROLES.get(key, key)}"
        if method in {"POST", "PUT", "PATCH"}:
            given["content-type"] = "application/json"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}

        async def read(limit: int) -> bytes:
            if len(data) > limit:
                raise CallError("too_large", f"The body is larger than {limit} bytes.")
            return data

        where, _, query = path.partition("?")
        page = await self.api.answer(
            method,
            where.encode(),
            query.encode(),
            [(name.encode(), value.encode("latin-1")) for name, value in given.items() if value != "-"],
            peer,
            read,
        )
        return Said(page.status, dict(page.headers), page.body)

    def records(self) -> list[dict[str, Any]]:
        """The changes in the record, once everything is written."""
        self.runtime.audit.close()
        texts = [file.read_text(encoding="utf-8") for file in self.folder.glob("audit*.jsonl")]
        lines = [json.loads(line) for text in texts for line in text.splitlines()]
        return [line for line in lines if line["kind"] == "admin"]


@contextlib.asynccontextmanager
async def _desk(
    text: str, folder: Path, token: str = "", url: str = "http://127.0.0.1:9"
) -> AsyncIterator[Desk]:
    runtime = Runtime(policy(text.replace("{folder}", str(folder)).replace("{url}", url)), mount="gateway")
    api = AdminApi(runtime, token=token)
    await api.start()
    try:
        await runtime.start()
        yield Desk(api, runtime, folder)
    finally:
        await api.close()
        await runtime.close()


@pytest.fixture
def open_desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AbstractAsyncContextManager[Desk]]:
    """Opens a desk: `open_desk(text=POLICY, token="", url=...)`."""
    monkeypatch.setenv("KEY_OF_A", "sk-CANARY-of-provider-a-0123456789")

    def opened(
        text: str = POLICY, token: str = "", url: str = "http://127.0.0.1:9"
    ) -> AbstractAsyncContextManager[Desk]:
        return _desk(text, tmp_path, token, url)

    return opened


@pytest.fixture
async def desk(open_desk: Callable[..., AbstractAsyncContextManager[Desk]]) -> AsyncIterator[Desk]:
    async with open_desk() as opened:
        yield opened
