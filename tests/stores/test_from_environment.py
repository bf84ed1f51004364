"""`env://NAME` as a store: its URL, password included, stands in the environment and in no policy."""

from __future__ import annotations

import pytest

from llmshield.errors import StoreError
from llmshield.policy import inspect_text
from llmshield.stores import open_store

SECRET = "CANARY-5d1f"


def test_the_url_comes_from_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE", f" redis://:{SECRET}@127.0.0.1:1/0\n")
    store = open_store("env://STORE")

    assert "redis" == store.url.scheme
    assert SECRET not in repr(store.url)


@pytest.mark.parametrize("value", [None, "", " ", "env://STORE"])
def test_a_variable_that_holds_none(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORE", raising=False)
    if value is not None:
        monkeypatch.setenv("STORE", value)
    with pytest.raises(StoreError, match="'STORE' holds no store; export its URL"):
        open_store("env://STORE")


def test_a_policy_may_say_so() -> None:
    assert ((), "env://STORE") == (
        (found := inspect_text("version: 1\nserver: {store: 'env://STORE'}"))[1],
        found[0].server.store if found[0] is not None else None,
    )
