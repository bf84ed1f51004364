"""Places on real backends, and a master key of each test's own."""

import uuid

import pytest

from llmshield import vault


@pytest.fixture(autouse=True)
def master(monkeypatch):
    """LLMSHIELD_SECRET_KEY of this test; returns it."""
    key = vault.new_key()
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", key)
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS", raising=False)
    return key


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request, tmp_path):
    """The URL of a place that holds nothing yet."""
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/transcripts.db"
    return f"{request.getfixturevalue('redis_url')}?prefix=t{uuid.uuid4().hex[:12]}"
