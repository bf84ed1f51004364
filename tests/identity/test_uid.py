"""Tenants by the user of a connection on this machine: of a real one, looked for once."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmshield.identity import Caller, Identity, uid
from llmshield.origins import Origin
from llmshield.testing import policy

POLICY = f"""
identify: [uid]
identity: {{uid: {{"{os.getuid()}": billing, "4294967": other}}}}
providers: {{p: {{dialect: openai}}}}
tenants: {{billing: {{tier: pro}}, other: {{tier: pro}}, anonymous: {{tier: pro}}}}
tiers: {{pro: {{}}}}
"""


def tenant(origin: Origin | None) -> str:
    asked: Any = SimpleNamespace(origin=origin)
    found = Identity(policy(POLICY)).identify({}, "", "10.0.0.5", asked)
    assert isinstance(found, Caller)
    return found.tenant


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells whose a connection is")
def test_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        address, port = client.getsockname()
        origin = Origin(address, port, "api.test", "api.test", 443)
        assert tenant(origin) == "billing"
        monkeypatch.setattr(uid, "uid_of", lambda *where: pytest.fail("once is enough"))
        assert tenant(origin) == "billing"


def test_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(uid, "uid_of", lambda *where: asked.append(where))
    origin = Origin("10.0.0.5", 5, "api.test", "api.test", 443)

    assert ["anonymous"] * 3 == [tenant(origin), tenant(origin), tenant(None)]
    assert [("10.0.0.5", 5)] == asked
