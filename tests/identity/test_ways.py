"""What every way of the room promises, those of other distributions included."""

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llmshield import registry
from llmshield.identity import Asked, Caller, Found, Identity, Way, Who
from llmshield.policy.identity import Ways
from llmshield.testing import policy

PAGE = Path(__file__).parents[2] / "docs" / "identity.md"


@pytest.mark.parametrize("name", registry.names("identity"))
def test_a_way_of_the_room(name: str) -> None:
    way = registry.find("identity", name)

    assert issubclass(way, Way)
    assert way.form.partition(":")[0] == name
    assert (way.read_name("") is None) == (":" in way.form)
    assert (way.read_name("x-name") is None) == (":" not in way.form)
    assert f"| `{way.form}` |" in PAGE.read_text(), "docs/identity.md names every way"
    assert name in Ways.model_fields or name == "header"


class Badge(Way):
    """A way of somebody else's: the first word of a header is a badge."""

    form: ClassVar[str] = "badge:NAME"

    @classmethod
    def read_name(cls, name: str) -> str | None:
        return name or None

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Found:
        badge = headers.get(self.name)
        if badge is None:
            return None
        return self._later(badge) if badge.startswith("slow-") else Who(badge, self.house.tier_of(badge))

    async def _later(self, badge: str) -> Who | None:
        return None if badge == "slow-nobody" else Who(badge.removeprefix("slow-"), "pro")


POLICY = """
identify: ["badge:x-badge", "header:x-team"]
trusted_proxies: [10.0.0.0/8]
providers: {p: {dialect: openai}}
tenants: {acme: {tier: pro}, beta: {tier: pro}, anonymous: {tier: pro}}
tiers: {pro: {}}
"""


@pytest.mark.parametrize(
    ("badge", "tenant"),
    [("acme", "acme"), ("slow-acme", "acme"), ("slow-nobody", "beta"), (None, "beta")],
)
async def test_a_way_of_another_distribution(
    monkeypatch: pytest.MonkeyPatch, badge: str | None, tenant: str
) -> None:
    """An entry point in the group `llmshield.identity`; one that has to wait is waited for, and the others follow."""
    entry = EntryPoint("badge", f"{__name__}:Badge", "llmshield.identity")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Badge)
    before = registry._entries
    monkeypatch.setattr(
        registry, "_entries", lambda group: (entry,) if group.endswith("identity") else before(group)
    )
    made = Identity(policy(POLICY))
    headers: dict[str, Any] = {
        "x-team": "beta",
        "x-api-key": "sk-own",
        **({"x-badge": badge} if badge else {}),
    }
    found = made.identify(headers, "", "10.0.0.1")
    caller = found if isinstance(found, Caller) else await found

    assert (tenant, "pro", "sk-own") == (caller.tenant, caller.tier, caller.key)


def test_the_page_says_what_a_key_looks_like() -> None:
    from llmshield.client_keys import make

    form = re.search(r"`(llmsk_\[[^`]+)`", PAGE.read_text())
    assert form is not None
    for _ in range(20):
        assert re.fullmatch(form[1], make())
