"""Heads read once for requests that share them: what the next request gets is what it would have got alone."""

from typing import Any

import pytest

from llmshield import senders
from llmshield.headers import upstream_headers
from llmshield.heads import Head, Kept, read

RAW = [
    (b"Host", b"x"),
    (b"Content-Length", b"2"),
    (b"Authorization", b"Bearer CANARY-0123456789-abc"),
    (b"X-Tag", b"caf\xe9"),
    (b"OpenAI-Organization", b"org-1"),
]


@pytest.fixture(autouse=True)
def _nobody_is_held():
    yield
    senders.release()


def test_names_are_in_lower_case_and_values_are_text():
    head, headers = read(RAW, b"", None)

    assert headers["host"] == "x"
    assert headers["x-tag"] == "caf\xe9"
    assert not head.doubled
    assert senders.held() is head.sender


@pytest.mark.parametrize(
    ("first", "second", "joined", "doubled"),
    [
        ((b"x-a", b"1"), (b"X-A", b"2"), ("x-a", "1, 2"), False),
        ((b"content-type", b"a"), (b"Content-Type", b"a"), ("content-type", "a"), False),
        ((b"content-type", b"a"), (b"Content-Type", b"b"), ("content-type", "b"), True),
        ((b"host", b"a"), (b"Host", b"a"), ("host", "a"), True),
        ((b"authorization", b"a"), (b"authorization", b"b"), ("authorization", "b"), True),
    ],
)
def test_a_name_that_comes_twice(first: Any, second: Any, joined: tuple[str, str], doubled: bool):
    head, headers = read([first, second], b"", None)

    assert headers == dict([joined])
    assert head.doubled is doubled


def test_the_next_request_gets_a_copy_with_its_own_length():
    kept = Kept(1)
    first, headers = read(RAW, b"", kept)
    headers["x-added"] = "by somebody"
    del headers["x-tag"]
    senders.release()

    second, again = read([RAW[0], (b"Content-Length", b"345"), *RAW[2:]], b"", kept)

    assert second is first
    assert again == {**read(RAW, b"", None)[1], "content-length": "345"}
    assert senders.held() is first.sender


@pytest.mark.parametrize("own_key", [True, False])
def test_what_goes_up_is_what_would_go_up_alone(own_key: bool):
    head, headers = read(RAW, b"", Kept(1))
    for told in (headers, dict(headers), {**headers, "x-tag": "plain"}, headers, {"accept": "*/*"}):
        for own in (own_key, not own_key, own_key):
            headers, lines = head.going_up(told, own_key=own)
            assert headers == upstream_headers(told, own_key=own)
            assert lines == "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def test_who_changes_what_went_up_changes_nothing_for_the_next():
    head = Head(RAW, b"")
    told = dict(head.named)
    first, _ = head.going_up(told, own_key=False)
    first["authorization"] = "Bearer of another call"
    told["x-late"] = "changed behind the call"

    assert head.going_up(dict(head.named), own_key=False)[0] == upstream_headers(head.named, own_key=False)
    assert "x-late" in head.going_up(told, own_key=False)[0]
