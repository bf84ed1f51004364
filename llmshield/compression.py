"""Bounded decompression, both ways: a bomb stops at its limit while it unpacks, not after.

gzip and deflate (RFC 1952, RFC 1950/1951), br (RFC 7932), zstd (RFC 8878). One coding at a time: stacked codings are
refused, since no client of an LLM sends them and bombs do.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol

import brotli
import zstandard

from llmshield.errors import WireError

STEP = 64 * 1024
"""Plain bytes unpacked between two looks at the limit."""

SLICE = 256


class Decompressor(Protocol):
    """Unpacks one body. `complete` is True once the coding's own end was seen."""

    complete: bool

    def feed(self, data: bytes) -> bytes:
        """The plain bytes of the next piece. Raises: WireError when broken or over the limit."""
        ...


def decompressor(encoding: str, limit: int = 32 * 1024 * 1024) -> Decompressor:
    """A decompressor for a `Content-Encoding`; `limit` is the largest plain size in bytes.

    Raises: WireError for a coding that is unknown, or several of them.
    """
    name = encoding.strip().lower()
    if name in {"gzip", "x-gzip"}:
        return _Zlib(limit, 16 + zlib.MAX_WBITS)
    if name == "deflate":
        return _Zlib(limit, zlib.MAX_WBITS)
    if name == "br":
        return _Brotli(limit)
    if name == "zstd":
        return _Zstd(limit)
    raise WireError("Content-Encoding is not one of gzip, deflate, br, zstd.")


def unpack(encoding: str, data: bytes, limit: int) -> bytes:
    """A whole body, unpacked. Raises: WireError when broken, cut or larger than `limit` bytes."""
    unpacker = decompressor(encoding, limit)
    plain = unpacker.feed(data)
    if not unpacker.complete:
        raise WireError("The compressed body ends in the middle.")
    return plain


class TooLarge(WireError):
    """The plain body is larger than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The unpacked body is larger than {limit} bytes.")


class _Zlib:
    def __init__(self, limit: int, window: int) -> None:
        self._left = limit
        self._limit = limit
        self._engine = zlib.decompressobj(window)
        self._head = b"" if window == zlib.MAX_WBITS else None
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        if self.complete:
            if data.strip(b"\0"):
                raise WireError("Bytes follow the end of the compressed body.")
            return b""
        if self._head is not None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return b""
            self._head = None
            if data[0] & 15 != 8 or int.from_bytes(data[:2], "big") % 31:
                # "deflate" without its zlib header (RFC 1950, 2.2): common enough that every client accepts it
                self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
        out: list[bytes] = []
        while True:
            step = min(self._left + 1, STEP)
            try:
                plain = self._engine.decompress(data, step)
            except zlib.error as error:
                raise WireError("The compressed body is broken.") from error
            self._left -= len(plain)
            if self._left < 0:
                raise TooLarge(self._limit)
            out.append(plain)
            if self._engine.eof:
                self.complete = True
                if self._engine.unused_data.strip(b"\0"):
                    raise WireError("Bytes follow the end of the compressed body.")
                break
            data = self._engine.unconsumed_tail
            if not data and len(plain) < step:  # a full step may have more behind it, inside zlib
                break
        return b"".join(out)


class _Brotli:
    def __init__(self, limit: int) -> None:
        self._left = limit
        self._limit = limit
        self._engine: Any = brotli.Decompressor()
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        out: list[bytes] = []
        try:
            plain = self._engine.process(data, output_buffer_limit=STEP)
            while True:
                self._left -= len(plain)
                if self._left < 0:
                    raise TooLarge(self._limit)
                out.append(plain)
                if self._engine.is_finished() or (not plain and self._engine.can_accept_more_data()):
                    break
                plain = self._engine.process(b"", output_buffer_limit=STEP)
        except brotli.error as error:
            raise WireError("The compressed body is broken.") from error
        self.complete = bool(self._engine.is_finished())
        return b"".join(out)


class _Zstd:
    def __init__(self, limit: int) -> None:
        self._left = limit
        self._limit = limit
        # 8 MiB: the largest window that RFC 8878 (3.1.1.1.2) recommends decoders to support
        self._engine = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).decompressobj()
        self.complete = False

    def feed(self, data: bytes) -> bytes:
        out: list[bytes] = []
        # A zstd block is at least 4 bytes and unpacks to at most 128 KiB (RFC 8878, 3.1.1.2): a slice of 256
        # bytes of input makes 8 MiB at worst before the limit is looked at.
        for start in range(0, len(data), SLICE):
            try:
                plain = self._engine.decompress(data[start : start + SLICE])
            except zstandard.ZstdError as error:
                raise WireError("The compressed body is broken.") from error
            self._left -= len(plain)
            if self._left < 0:
                raise TooLarge(self._limit)
            out.append(plain)
            if self._engine.eof:
                self.complete = True
                if self._engine.unused_data or start + SLICE < len(data):
                    raise WireError("Bytes follow the end of the compressed body.")
                break
        return b"".join(out)
