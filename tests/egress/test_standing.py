"""Rules of a run: health waits for them where we may look, and what becomes of them at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmshield.egress import firewall
from llmshield.egress.accounts import Account
from llmshield.egress.firewall import Found
from llmshield.egress.rules import Rules, RulesError
from llmshield.egress.running import Wanted
from llmshield.egress.standing import Standing, of
from llmshield.errors import ShieldError
from llmshield.policy.units import HostPort
from llmshield.testing import policy

SERVICE = Account(1337, 1337, "1337", "/nonexistent")
RULES = Rules(port=8080, uid=1337)
POLICY = "providers: {openai: {dialect: openai}}\negress: {hosts: {api.openai.com: openai}, ports: [443]}"


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (None, "are not up"),
        (Found("nft", (1337,), (), 8080), None),
        (Found("nft", (1337,), (), 9), "lead to port 9"),
        (Found("nft", (1338,), (), 8080), "leave uid 1338 out"),
        (Found("nft", (1338, 1337), (), 8080), None),
        (Found("nft", (1338,), (4,), 8080), None),  # their group may be the one
        (Found("iptables"), None),
        (RulesError("not root"), None),
    ],
)
def test_health_waits_for_them(monkeypatch: pytest.MonkeyPatch, found: Any, wanted: str | None) -> None:
    def find() -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(firewall, "find", find)
    standing = Standing(RULES, sets=False, bypasses=False)
    assert standing.missing is not None  # until somebody has looked
    standing.look()

    assert (standing.missing is None) if wanted is None else wanted in (standing.missing or "")


@pytest.mark.parametrize(
    ("sets", "bypasses", "crashed", "steps"),
    [
        (True, False, False, ["up", "down"]),
        (True, False, True, ["up"]),  # clients are refused
        (True, True, True, ["up", "down"]),  # clients go past
        (False, True, True, []),
        (False, False, False, []),
    ],
)
def test_what_becomes_of_them(
    monkeypatch: pytest.MonkeyPatch, sets: bool, bypasses: bool, crashed: bool, steps: list[str]
) -> None:
    done: list[str] = []
    monkeypatch.setattr(firewall, "find", lambda: None)
    monkeypatch.setattr(firewall, "up", lambda rules: done.append("up"))
    monkeypatch.setattr(firewall, "down", lambda: done.append("down"))
    standing = Standing(RULES, sets=sets, bypasses=bypasses)
    standing.begin()
    standing.end(crashed=crashed)

    assert steps == done


def test_only_transparent_mode_has_any() -> None:
    nothing: Any = None

    def wanted(mode: Any, **more: Any) -> Wanted:
        listen = more.pop("listen", HostPort("127.0.0.1", 8080))
        return Wanted(policy(POLICY), Path(), mode, listen, None, "", nothing, **more)

    assert of(wanted("regular")).missing is None
    assert of(wanted("transparent")).missing is not None
    assert of(wanted("transparent", user=SERVICE, sets_rules=True)).missing is not None
    for more, why in (
        ({"user": Account(0, 0, "root", "/root")}, "--uid"),
        ({"user": SERVICE, "listen": HostPort("127.0.0.1", 0)}, "--listen"),
        ({"user": SERVICE, "listen": HostPort("127.0.0.1", 443)}, "--listen"),
        ({"user": SERVICE, "listen": HostPort("10.0.0.1", 8080)}, "--listen"),
    ):
        with pytest.raises(ShieldError, match=why):
            of(wanted("transparent", sets_rules=True, **more))
