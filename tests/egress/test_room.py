"""Parts of a room that are no system calls; a whole room is in tests/cli/_egress/test_exec.py."""

import socket
import struct

import pytest

from llmshield.egress import room
from llmshield.egress.room import RoomError


def test_an_answer_comes_from_the_address_that_was_asked() -> None:
    asked = struct.pack("i4s4s", 1, socket.inet_aton("10.0.0.1"), socket.inet_aton("127.0.0.53"))
    told = room.answer_from([(socket.IPPROTO_IP, 8, asked)], socket.AF_INET)
    assert told == [
        (socket.IPPROTO_IP, 8, struct.pack("i4s4s", 0, socket.inet_aton("127.0.0.53"), b"\0" * 4))
    ]

    address = socket.inet_pton(socket.AF_INET6, "2001:db8::53")
    told = room.answer_from([(socket.IPPROTO_IPV6, 50, address + struct.pack("i", 1))], socket.AF_INET6)
    assert told == [(socket.IPPROTO_IPV6, 50, address + struct.pack("i", 0))]
    assert room.answer_from([], socket.AF_INET) == []


def test_sockets_are_handed_over() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as made:
        room.hand_over(theirs, [made])
        (found,) = room.take_over(ours)
        with found:
            assert found.getsockname() == made.getsockname()


@pytest.mark.parametrize(("said", "expected"), [(b"!no right to", "no right to"), (b"", "process ended")])
def test_what_went_wrong_inside_is_told_outside(said: bytes, expected: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            if said:
                theirs.send(said)
        with pytest.raises(RoomError, match=expected):
            room.take_over(ours)
