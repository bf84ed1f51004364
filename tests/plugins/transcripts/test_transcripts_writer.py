"""The thread that keeps: bounded, patient with a store that is away, and never stopped by one conversation."""

import time

import pytest

from llmshield import vault
from llmshield.errors import SecretError, StoreUnavailable
from llmshield.transcripts import Kept, Told, Transcripts
from llmshield_plugins.transcripts import writer as module
from llmshield_plugins.transcripts.writer import Writer


@pytest.fixture(autouse=True)
def master(monkeypatch):
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())


def told(id="1", words="words", user="alice", erasures=0):
    return Told("acme", user, id, time.time() + 999, erasures, {}, [["user", "/", words]])


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_does_not_fit_is_dropped_and_counted():
    writer = Writer(Transcripts(Kept("memory://")), 3)
    for number in range(5):
        assert writer.full == (number >= 3)
        writer.put(told(str(number)))
    assert (writer.waiting, writer.dropped) == (3, 2)
    writer.start()
    until(lambda: writer.kept == 3)
    assert (writer.waiting, writer.full) == (0, False)
    writer.close(5)


def test_characters_are_bounded_too(monkeypatch):
    monkeypatch.setattr(module, "MOST_CHARACTERS", 1000)
    writer = Writer(Transcripts(Kept("memory://")), 99)
    for number in range(5):
        writer.put(told(str(number), "x" * 400))
    assert (writer.waiting, writer.dropped) == (3, 2)
    writer.start()
    until(lambda: writer.kept == 3)
    writer.put(told("9", "x" * 400))
    until(lambda: writer.kept == 4)
    writer.close(5)


def test_a_store_that_goes_away_and_comes_back(start_redis):
    """What came meanwhile is kept then."""
    kept = ("--appendonly", "yes", "--appendfsync", "always")
    url, server = start_redis(*kept)
    server.kill()
    server.wait(20)
    port = int(url.rpartition(":")[2].removesuffix("/0"))
    writer = Writer(Transcripts(Kept(url)), 99)
    writer.start()
    writer.put(told("0"))
    writer.put(told("never asked", user="bob", erasures=-1))
    until(lambda: writer.failure is not None)
    assert (writer.waiting, writer.kept) == (2, 0)
    _, server = start_redis(*kept, port=port)
    until(lambda: writer.kept == 1 and writer.failure is None)
    assert writer.late == 1
    server.kill()
    server.wait(20)
    writer.put(told("1"))
    until(lambda: writer.failure is not None)
    writer.put(told("2"))
    start_redis(*kept, port=port)
    until(lambda: writer.kept == 3 and writer.failure is None)
    assert (writer.dropped, writer.waiting) == (0, 0)
    writer.close(10)


class Odd(Transcripts):
    """Keeps all but one, and fails as it is told."""

    error: Exception | None = None

    def put(self, told):
        if self.error is not None:
            raise self.error
        if any(each.id == "bad" for each in told):
            raise ValueError("bad")
        return super().put(told)


def test_one_that_can_not_be_sealed_keeps_no_other_out():
    writer = Writer(Odd(Kept("memory://")), 99)
    for id in ("1", "bad", "2"):
        writer.put(told(id))
    writer.start()
    until(lambda: writer.kept == 2)
    writer.put(told("bad"))
    writer.put(told("3"))
    until(lambda: writer.kept == 3)
    assert (writer.dropped, writer.failure, writer.waiting) == (2, None, 0)
    writer.close(5)


@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), RuntimeError("a bug"), SecretError("another key")]
)
def test_the_thread_outlives_every_failure(error):
    transcripts = Odd(Kept("memory://"))
    transcripts.error = error
    writer = Writer(transcripts, 99)
    writer.start()
    writer.put(told("1"))
    until(lambda: writer.failure is not None or writer.dropped == 1)
    transcripts.error = None
    writer.put(told("2"))
    until(lambda: writer.kept >= 1 and not writer.waiting)
    assert writer.kept + writer.dropped == 2
    writer.close(5)


def test_what_waits_for_too_long_is_dropped(monkeypatch):
    monkeypatch.setattr(module, "STALE_S", 0.2)
    transcripts = Odd(Kept("memory://"))
    transcripts.error = StoreUnavailable("away")
    writer = Writer(transcripts, 99)
    writer.put(told("1"))
    writer.start()
    until(lambda: writer.dropped == 1)
    assert writer.waiting == 0
    writer.close(5)


def test_late_ones_are_counted():
    transcripts = Transcripts(Kept("memory://"))
    transcripts.open()
    transcripts.erase("bob", None)
    writer = Writer(transcripts, 99)
    writer.put(told("1", erasures=0))
    writer.put(told("2", erasures=1))
    writer.start()
    until(lambda: writer.late == 1 and writer.kept == 1)
    writer.close(5)


def test_an_idle_thread_hears_of_erasures(tmp_path):
    where = Kept(f"sqlite:///{tmp_path}/t.db")
    mine, other = Transcripts(where), Transcripts(where)
    mine.open(), other.open()
    writer = Writer(mine, 99)
    writer.start()
    other.erase("bob", None)
    until(lambda: mine.people.erasures == 1)
    writer.close(5)
    other.close()


def test_closing_writes_what_waits_and_gives_up_in_time():
    transcripts = Odd(Kept("memory://"))
    writer = Writer(transcripts, 9999)
    writer.start()
    for number in range(500):
        writer.put(told(str(number)))
    writer.close(20)
    assert writer.kept == 500
