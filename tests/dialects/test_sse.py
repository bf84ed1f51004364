"""The event-stream parser: any cut gives the same events, and nothing raises."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.dialects._sse import COMMENT, SseParser, escape_lines, write_event

MANY = settings(max_examples=500, deadline=None)


def parse(
    data: bytes, cuts: Sequence[int] = (), limit: int = 10_000
) -> tuple[list[tuple[str, bytes]], bool, bool]:
    parser = SseParser(limit)
    events: list[tuple[str, bytes]] = []
    for a, b in itertools.pairwise([0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]):
        events += parser.feed(data[a:b])
    return events, parser.error is not None, parser.pending


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b'data: {"a":1}\n\n', [("", b'{"a":1}')]),
        (b"data:x\n\n", [("", b"x")]),
        (b"data:  x\n\n", [("", b" x")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data\n\n", [("", b"")]),
        (b"data:\ndata:\n\n", [("", b"\n")]),
        (b"event: x\ndata: 1\n\n", [("x", b"1")]),
        (b"data: 1\nevent: x\n\n", [("x", b"1")]),
        (b"event: x\nevent: y\ndata: 1\n\n", [("y", b"1")]),
        (b"event:x\ndata: 1\n\ndata: 2\n\n", [("x", b"1"), ("", b"2")]),
        (b"event: only\n\n", []),
        (b"data: 1\r\n\r\ndata: 2\r\rdata: 3\n\r\n", [("", b"1"), ("", b"2"), ("", b"3")]),
        (b"\xef\xbb\xbfdata: 1\n\n", [("", b"1")]),
        (b"\n\n\xef\xbb\xbfdata: 1\n\n", []),
        (b": ping\n\ndata: 1\n\n", [(COMMENT, b""), ("", b"1")]),
        (b": ping\ndata: 1\n\n", [("", b"1")]),
        (b"id: 7\nretry: 10\ndata: 1\n\n", [("", b"1")]),
        (b"\n\n\n\ndata: 1\n\n\n\n", [("", b"1")]),
        (b"datax: 1\n\ndat: 2\n\n", []),
        (b"data: 1\n", []),
        (b"data: 1", []),
        ("data: a\u2028b\u0085c\x0bd\x0ce\n\n".encode(), [("", "a\u2028b\u0085c\x0bd\x0ce".encode())]),
    ],
)
def test_events_are_those_of_the_standard(data, events):
    assert parse(data)[0] == events
    for cut in itertools.combinations_with_replacement(range(len(data) + 1), 2):
        assert parse(data, list(cut))[0] == events


@MANY
@given(
    data=st.lists(
        st.sampled_from(
            [
                b"data: {}",
                b"data:",
                b"event: e",
                b":",
                b": c",
                b"\n",
                b"\r",
                b"\r\n",
                b"\n\n",
                b"\xef\xbb\xbf",
                b"x",
                b"\xff",
            ]
        ),
        max_size=14,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_cuts_make_no_difference(data, cuts):
    assert parse(data) == parse(data, cuts) == parse(data, list(range(len(data))))


@MANY
@given(payloads=st.lists(st.text(max_size=20), max_size=5), cuts=st.lists(st.integers(0, 300), max_size=6))
def test_what_is_written_is_read_again(payloads, cuts):
    data = b"".join(write_event({"t": text}, "e" if text else "") for text in payloads)

    events, broken, pending = parse(data, cuts)

    assert [json.loads(data)["t"] for _, data in events] == payloads
    assert not broken
    assert not pending


def test_separators_that_clients_break_lines_at_are_escaped():
    data = write_event({"a": "\u2028\u2029\u0085\u2027é"})

    assert data == 'data: {"a":"\\u2028\\u2029\\u0085\u2027é"}\n\n'.encode()
    assert escape_lines(b"plain") == b"plain"
    assert json.loads(data[6:]) == {"a": "\u2028\u2029\u0085\u2027é"}


def test_lone_surrogates_and_long_integers_are_written_as_ascii():
    assert write_event({"a": "\ud83d", "n": 2**70}) == b'data: {"a":"\\ud83d","n":1180591620717411303424}\n\n'


@pytest.mark.parametrize("cuts", [[], [50], list(range(0, 400, 3))])
@pytest.mark.parametrize(
    "tail",
    [
        b"data: " + b"x" * 200 + b"\n\n",
        b"data: " + b"x" * 200,
        b"data: 2\n\ndata: " + b"x" * 200,
        b"x\n" * 100,
    ],
)
def test_an_event_beyond_the_limit_is_an_error_behind_what_came_before(tail, cuts):
    events, broken, pending = parse(b"data: 1\n\n" + tail, cuts, limit=100)

    assert events[0] == ("", b"1")
    assert all(len(data) <= 100 for _, data in events)
    assert broken
    assert not pending


def test_nothing_is_read_behind_an_error():
    parser = SseParser(10)
    parser.feed(b"data: 12345678901234567890\n\n")

    assert parser.feed(b"data: 1\n\n") == []


def test_an_event_name_that_is_not_utf8_is_an_error():
    for data in (b"event: \xff\ndata: 1\n\n", b"event: \xff\ndata: 1\ndata: 2\n\n"):
        assert parse(b"data: 0\n\n" + data) == ([("", b"0")], True, False)


def test_a_long_event_in_many_pieces_takes_linear_time():
    def seconds(size: int) -> float:
        begin = time.process_time()
        parser = SseParser()
        for _ in range(size):
            parser.feed(b"x" * 50)
        return time.process_time() - begin

    assert min(seconds(40_000) for _ in range(3)) < 8 * 2.5 * min(seconds(5_000) for _ in range(3)) + 0.02
