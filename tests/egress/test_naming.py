"""Names inside a room: questions as resolvers write them, and bytes that are none."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.egress import naming
from llmshield.egress.naming import Names


def question(name: str, kind: int = 1, number: int = 7, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return struct.pack("!HHHHHH", number, flags, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_a_name_has_one_address_and_the_address_means_the_name() -> None:
    names = Names()
    asked = question("API.OpenAI.com")
    answer = names.answer(asked)

    assert answer is not None
    number, flags, questions, answers, _, _ = struct.unpack_from("!HHHHHH", answer)
    assert (number, flags, questions, answers) == (7, 0x8180, 1, 1)
    assert answer[12 : len(asked)] == asked[12:]
    address = socket.inet_ntoa(answer[-4:])
    assert names.name(address) == "api.openai.com"
    assert names.address("api.openai.com") == address
    assert names.is_ours(address)
    assert names.address("other.example") != address
    assert not names.is_ours("10.0.0.1")
    assert not names.is_ours("2001:db8::1")


@pytest.mark.parametrize("kind", [28, 65, 5, 255])
def test_other_kinds_are_there_and_empty(kind: int) -> None:
    """No address of IPv6, and no key for an encrypted ClientHello."""
    answer = Names().answer(question("api.openai.com", kind))

    assert answer is not None
    assert struct.unpack_from("!HHHHHH", answer)[1:4] == (0x8180, 1, 0)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (question("a.example", flags=0x2800), 4),  # an update
        (question("a.example")[:-3], 1),
        (question("a.example")[:15], 1),
        (question("bad host\r\n.example"), 1),
        (struct.pack("!HHHHHH", 7, 0x0100, 2, 0, 0, 0), 1),
        (struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", 1),  # a pointer to itself
        (struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\x3f" + b"a" * 63, 1),
        (question(".".join(["a" * 60] * 6)), 1),
    ],
)
def test_questions_that_are_broken(asked: bytes, code: int) -> None:
    answer = Names().answer(asked)

    assert answer is not None
    assert answer[3] & 0xF == code


@pytest.mark.parametrize("data", [b"", b"x" * 11, question("a.example", flags=0x8100)])
def test_what_is_no_question_gets_no_answer(data: bytes) -> None:
    assert Names().answer(data) is None


@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    names = Names()
    answer = names.answer(data)

    assert answer is None or answer[:2] == data[:2]
    assert answer is None or answer[2] & 0x80


def test_memory_is_bounded_and_the_oldest_name_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "MOST", 3)
    names = Names()
    first = names.address("a.example")
    names.address("b.example")
    names.address("c.example")
    names.address("a.example")
    second = names.address("d.example")

    assert names.name(second) == "d.example"
    assert names.name(first) == "a.example"
    assert names.address("b.example") != second
