"""Names inside a closed room: each name gets an address of its own, and whoever is connected to that address is taken
to mean the name. No question leaves the room, so that names carry nothing out, and the proxy learns who is meant.

Bytes in, bytes out (RFC 1035). A: an address of 198.18.0.0/15, which RFC 2544 keeps for tests and nobody routes.
AAAA, HTTPS and all else: there is the name, and nothing of that kind (so no encrypted ClientHello either).
"""

from __future__ import annotations

import ipaddress
import struct
from collections import OrderedDict

NETWORK = ipaddress.ip_network("198.18.0.0/15")
MOST = 100_000
"""Names that are remembered; beyond it the one that was asked for longest ago gives its address away."""

_TTL_S = 1  # no cache of a client's outlives the room's own memory
_A, _IN = 1, 1
_FORMAT_ERROR, _NOT_BUILT = 1, 4


class Names:
    """Which name has which address."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, str] = OrderedDict()
        self._names: dict[str, str] = {}
        self._next = 1  # the network's own address is nobody's

    def address(self, name: str) -> str:
        """The address of a name; the same one every time."""
        name = name.lower()
        if found := self._addresses.get(name):
            self._addresses.move_to_end(name)
            return found
        if len(self._addresses) < MOST:
            found = str(NETWORK.network_address + self._next)
            self._next += 1
        else:
            _, found = self._addresses.popitem(last=False)
        self._addresses[name] = found
        self._names[found] = name
        return found

    def name(self, address: str) -> str | None:
        """Who is meant by an address; None for one that was never given to a name."""
        return self._names.get(address)

    def is_ours(self, address: str) -> bool:
        """Whether an address is one of those that are given to names."""
        found = ipaddress.ip_address(address)
        return found.version == 4 and found in NETWORK

    def answer(self, question: bytes) -> bytes | None:
        """The answer to a question as DNS writes it; None for what is no question."""
        if len(question) < 12:
            return None
        number, flags, count = struct.unpack_from("!HHH", question)
        if flags & 0x8000:
            return None
        kept = flags & 0x0100 | 0x8080  # an answer; recursion as wished, and to be had
        if flags & 0x7800:
            return struct.pack("!HHHHHH", number, kept | flags & 0x7800 | _NOT_BUILT, 0, 0, 0, 0)
        found = _read(question) if count == 1 else None
        if found is None:
            return struct.pack("!HHHHHH", number, kept | _FORMAT_ERROR, 0, 0, 0, 0)
        name, kind, family, end = found
        records = b""
        if (kind, family) == (_A, _IN) and name:
            # 0xc00c: the name of the question.
            records = (
                struct.pack("!HHHIH", 0xC00C, _A, _IN, _TTL_S, 4)
                + ipaddress.ip_address(self.address(name)).packed
            )
        return struct.pack("!HHHHHH", number, kept, 1, bool(records), 0, 0) + question[12:end] + records


def _read(question: bytes) -> tuple[str, int, int, int] | None:
    """Name, type, class and end of the one question; None where it is none."""
    labels, at = list[str](), 12
    while True:
        if at >= len(question):
            return None
        length = question[at]
        if length == 0:
            break
        label = question[at + 1 : at + 1 + length]
        if length > 63 or len(label) < length or not _plain(label) or at - 12 + length > 253:
            return None
        labels.append(label.decode("ascii"))
        at += 1 + length
    if at + 5 > len(question):
        return None
    kind, family = struct.unpack_from("!HH", question, at + 1)
    return ".".join(labels), kind, family, at + 5


def _plain(label: bytes) -> bool:
    """Letters, digits, hyphen, underscore: what stands in a host name, and can't break a CONNECT line."""
    return all(byte in b"-_" or 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122 for byte in label)
