"""What holds a secret shows it in no `repr()`, and in no list that shows it."""

import base64
from collections.abc import Callable
from typing import Any

import pytest

from llmshield import vault
from llmshield.admin.table import Asked
from llmshield.dialects import WireReply, WireRequest
from llmshield.identity import Caller
from llmshield.policy.nodes import Node

HOLDERS: dict[str, Callable[[dict[str, str]], object]] = {
    "WireRequest": lambda c: WireRequest(
        "POST", "/x", f"key={c['url key']}", {"authorization": c["own key"]}, c["own key"].encode()
    ),
    "WireReply": lambda c: WireReply(200, {"x": c["own key"]}, c["own key"].encode()),
    "Caller": lambda c: Caller("acme", None, None, c["client key"], "192.0.2.1", secret=c["client key"]),
    "Asked": lambda c: Asked("GET", "/status", {"authorization": f"Bearer {c['admin token']}"}),
    "Node": lambda c: Node(c["literal"], 1, 1, (1, 9)),
    "KeyRing": lambda c: vault.KeyRing(base64.urlsafe_b64decode(c["vault master"])),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_holds_a_secret_does_not_show_it(name: str, canaries: dict[str, str], leaks: Any) -> None:
    """Without anything that could have been told what to hide."""
    thing = HOLDERS[name](canaries)

    assert type(thing).__name__ == name
    assert leaks(f"{thing!r} {thing!s} {[thing]}") == []
