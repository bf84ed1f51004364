"""One answer: which deadline counts when, and compressed bodies that are cut, foreign or absent."""

import zlib

import pytest

from llmshield.answer import Answer
from llmshield.errors import UpstreamError


class Connection:
    """Notes what an answer asks of its connection."""

    def __init__(self) -> None:
        self.aborted = False
        self.watched: list[float] = []

    def abort(self) -> None:
        self.aborted = True

    def read_on(self, answer: Answer) -> None:
        """Room for more."""

    def watch(self, answer: Answer, until: float) -> None:
        self.watched.append(until)


def made(first_by: float = 10.0, total_by: float = 100.0) -> Answer:
    return Answer(Connection(), first_by, total_by, 10.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "reading", "idle", "now", "expected"),
    [
        (0, True, None, 9.9, None),
        (0, True, None, 10.0, "first_token"),
        (0, False, None, 10.0, "first_token"),  # its question is still going out
        (200, True, None, 10.0, "first_token"),
        (200, False, None, 10.0, None),  # nobody waits for the provider
        (200, False, None, 100.0, "total"),
        (200, True, 5.0, 54.9, None),
        (200, True, 5.0, 55.0, "idle"),
        (200, False, 5.0, 60.0, None),
        (200, True, 5.0, 100.0, "total"),
        (0, True, None, 100.0, "first_token"),
    ],
)
def test_which_deadline_counts(
    status: int, reading: bool, idle: float | None, now: float, expected: str | None
) -> None:
    answer = made()
    answer.status, answer.reading, answer._idle, answer._last = status, reading, idle, 50.0
    failure = answer.late(now)

    assert expected == (failure.reason if failure else None)


def test_the_total_bounds_the_first_byte() -> None:
    assert 3.0 == made(10.0, 3.0).first_by


@pytest.mark.parametrize("now", [1.0, 20.0, 99.0])
@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize("idle", [None, 5.0])
def test_the_next_look_is_ahead_and_not_behind_the_end(now: float, reading: bool, idle: float | None) -> None:
    answer = made()
    answer.reading, answer._idle = reading, idle

    assert now < answer.next_look(now) <= 100.0


def test_the_first_token_sets_the_watch_anew() -> None:
    answer = made()
    answer.idle_after(2.0)
    connection = answer._connection

    assert isinstance(connection, Connection)
    assert len(connection.watched) == 1
    assert answer._idle == 2.0


def packed(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=31)
    return engine.compress(data) + engine.flush()


def unpacking(
    parts: list[bytes], encoding: str = "gzip", status: int = 200, *, is_head: bool = False
) -> Answer:
    answer = made()
    answer.status, answer.is_head, answer.headers = status, is_head, {"content-encoding": encoding}
    answer.unpack()
    answer.parts = parts
    answer.complete = True
    return answer


async def read(answer: Answer) -> bytes:
    out = b""
    while data := await answer.chunk():
        out += data
    return out


async def test_a_compressed_answer_is_read_and_one_that_is_cut_is_not_whole() -> None:
    whole = packed(b"hello" * 100)
    assert b"hello" * 100 == await read(unpacking([whole[:7], whole[7:]]))
    for cut in range(1, len(whole)):
        with pytest.raises(UpstreamError) as caught:
            await read(unpacking([whole[:cut]]))
        assert "truncated" == caught.value.reason


async def test_bytes_behind_a_compressed_answer_are_an_error() -> None:
    with pytest.raises(UpstreamError) as caught:
        await read(unpacking([packed(b"a") + b"more"]))

    assert "malformed" == caught.value.reason


def test_an_unknown_coding_closes_the_connection() -> None:
    answer = made()
    answer.headers = {"content-encoding": "compress"}
    with pytest.raises(UpstreamError):
        answer.unpack()

    assert answer._connection.aborted  # type: ignore[attr-defined]


@pytest.mark.parametrize(("status", "is_head"), [(204, False), (304, False), (200, True)])
async def test_where_no_body_is_there_is_nothing_to_unpack(status: int, is_head: bool) -> None:
    assert b"" == await read(unpacking([], status=status, is_head=is_head))
