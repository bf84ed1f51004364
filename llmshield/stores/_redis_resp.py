"""Redis' own format (RESP 2, https://redis.io/docs/latest/develop/reference/protocol-spec/): commands out, answers in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any


class RedisError(Exception):
    """Redis answered with an error; the message begins with its kind: `NOSCRIPT ...`."""


def read(data: bytes, at: int) -> tuple[Any, int]:
    """One answer from `at` on, and where the next begins. Raises: IndexError when it is not whole yet."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise IndexError
    kind, after = data[at], end + 2
    if kind == 0x3A:  # :
        return int(data[at + 1 : end]), after
    if kind == 0x24:  # $
        length = int(data[at + 1 : end])
        if length < 0:
            return None, after
        if len(data) < after + length + 2:
            raise IndexError
        return data[after : after + length], after + length + 2
    if kind == 0x2A:  # *
        items = []
        for _ in range(int(data[at + 1 : end])):
            item, after = read(data, after)
            items.append(item)
        return items, after
    if kind == 0x2B:  # +
        return data[at + 1 : end], after
    if kind == 0x2D:  # -
        return RedisError(data[at + 1 : end].decode("utf-8", "replace")), after
    raise ValueError(f"no RESP: {data[at : at + 1]!r}")


def script_head(script: str) -> bytes:
    """What stands before the one key and the arguments of a call of this script, behind the number of parts."""
    sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
    return b"\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n1\r\n" % sha


def command(parts: Sequence[str]) -> bytes:
    """A command of these words."""
    texts = [part.encode() for part in parts]
    return b"*%d\r\n" % len(texts) + b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts])
