"""Heads as bytes: which one counts as the same, which ones are never remembered."""

import gc

import pytest

from llmshield.mounts._heads import LONGEST, Pattern, _patterns, pattern_of

Headers = list[tuple[bytes, bytes]]


def learned(head: bytes) -> Pattern | None:
    lines = head.split(b"\r\n")[1:]
    headers = [
        (name, value.strip()) for name, colon, value in (line.partition(b":") for line in lines) if colon
    ]
    return pattern_of(head, "POST", b"/a", b"", headers)


HEAD = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-A: b\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "start", "length"),
    [
        (HEAD, len(HEAD), 5),
        (HEAD + b"hello", len(HEAD), 5),
        (HEAD.replace(b"5", b"12345"), len(HEAD) + 4, 12345),
        (HEAD.replace(b"5", b"0"), len(HEAD), 0),
        (HEAD.replace(b"5", b"007"), len(HEAD) + 2, 7),
    ],
)
def test_the_same_head_with_another_length(data: bytes, start: int, length: int) -> None:
    pattern = learned(HEAD)
    assert pattern is not None
    found = pattern.match(data)
    assert found is not None

    digits = data.split(b"Length: ")[1].split(b"\r")[0]
    assert found == (start, [(b"Host", b"x"), (b"Content-Length", digits), (b"X-A", b"b")], length)
    assert pattern.headers[1] == (b"Content-Length", b"5")


@pytest.mark.parametrize(
    "data",
    [
        HEAD[:-1],
        HEAD[:20],
        b"\r\n" + HEAD,
        HEAD.replace(b"/a", b"/b"),
        HEAD.replace(b"POST", b"GET "),
        HEAD.replace(b"X-A: b", b"X-A: c"),
        HEAD.replace(b"X-A: b", b"X-A: b\r\nX-B: c"),
        HEAD.replace(b"X-A: b", b"X-A: b\r\nTransfer-Encoding: chunked"),
        HEAD.replace(b": 5", b":5"),
        HEAD.replace(b"5", b"+5"),
        HEAD.replace(b"5", b"-5"),
        HEAD.replace(b"5", b"0x5"),
        HEAD.replace(b"5", b"5, 5"),
        HEAD.replace(b"5", b"5 "),
        HEAD.replace(b"5", b""),
        HEAD.replace(b"5", b"\xb2"),
        HEAD.replace(b"5", b"5_0"),
        HEAD.replace(b"5", b"1" * 16),
        HEAD.replace(b"5\r\n", b"5\n"),
        HEAD.replace(b"5\r\n", b"5\r\n\r\n"),
    ],
)  # fmt: skip
def test_another_head_is_left_to_the_parser(data: bytes) -> None:
    pattern = learned(HEAD)
    assert pattern is not None

    assert pattern.match(data) is None


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"Content-Length: 5\r\n", b""),
        HEAD.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        HEAD.replace(b"X-A: b", b"Transfer-Encoding: chunked"),
        HEAD.replace(b"X-A: b", b"content-length: 5"),
        HEAD.replace(b"X-A: b", b"X-A: " + b"b" * LONGEST),
        HEAD.replace(b"X-A: b\r\n", b"X-A: b\r\n\r\n"),
        HEAD[:-2],
        HEAD + b"hello",
    ],
)
def test_what_is_framed_otherwise_is_not_remembered(head: bytes) -> None:
    assert learned(head) is None


def test_connections_of_one_client_share_what_they_know() -> None:
    gc.collect()
    before = len(_patterns)
    first, second = learned(HEAD), learned(HEAD.replace(b"5", b"678"))
    other = learned(HEAD.replace(b"X-A: b", b"X-A: c"))

    assert first is second
    assert other is not first
    assert len(_patterns) == before + 2

    del first, second, other
    gc.collect()
    assert len(_patterns) == before
