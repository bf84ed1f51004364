"""Places on real backends, and a master key of each test's own."""

import time
import uuid

import pytest

from llmshield import vault
from llmshield.transcripts import Kept, Told, Transcripts


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


@pytest.fixture
def kept(url):
    """Transcripts on that place, open."""
    kept = Transcripts(Kept(url))
    assert kept.open()
    yield kept
    kept.close()


@pytest.fixture
def file(tmp_path):
    """Where transcripts in a file are."""
    return Kept(f"sqlite:///{tmp_path}/transcripts.db")


@pytest.fixture(scope="session")
def told():
    """`told(kept, user=..., words=...)`: a conversation of one message, as a plugin tells it."""
    return _told


def _told(
    kept,
    user="alice",
    tenant="acme",
    id="1",
    words="The harvest of quinces was poor.",
    ttl=3600.0,
    erasures=None,
):
    return Told(
        tenant, user, id, time.time() + ttl, kept.people.erasures if erasures is None else erasures, {"model": "m"},
        [["user", "/messages/0/content", words]],
    )  # fmt: skip


@pytest.fixture(scope="session")
def ids():
    """`ids(kept, user, tenant)`: the conversations that are exported for a person."""
    return lambda kept, user="alice", tenant=None: [each["id"] for each in kept.export(user, tenant)]
