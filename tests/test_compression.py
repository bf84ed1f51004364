"""Bounded decompression: every coding, any cut, bombs, garbage, cut bodies."""

import gzip
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llmshield.compression import TooLarge, decompressor, unpack
from llmshield.errors import WireError


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw deflate": _raw_deflate,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("name", PACKERS)
@given(data=st.binary(max_size=5000), cuts=st.lists(st.integers(1, 400), max_size=8))
def test_any_cut_gives_the_same_bytes(name: str, data: bytes, cuts: list[int]) -> None:
    packed = PACKERS[name](data)
    unpacker = decompressor(name.split()[-1])
    out, rest = b"", packed
    for cut in cuts:
        out += unpacker.feed(rest[:cut])
        rest = rest[cut:]
    if rest:
        out += unpacker.feed(rest)

    assert data == out
    assert unpacker.complete


@pytest.mark.parametrize("name", PACKERS)
def test_a_bomb_stops_at_the_limit(name: str) -> None:
    packed = PACKERS[name](b"\0" * 50_000_000)

    with pytest.raises(TooLarge):
        unpack(name.split()[-1], packed, 1_000_000)


@pytest.mark.parametrize("name", PACKERS)
def test_a_large_body_below_the_limit_is_whole(name: str) -> None:
    data = bytes(range(256)) * 4000

    assert data == unpack(name.split()[-1], PACKERS[name](data), len(data))


@pytest.mark.parametrize("name", PACKERS)
def test_a_cut_body_is_an_error(name: str) -> None:
    packed = PACKERS[name](bytes(range(256)) * 40)

    with pytest.raises(WireError):
        unpack(name.split()[-1], packed[:-3], 1_000_000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_garbage_is_an_error(encoding: str) -> None:
    with pytest.raises(WireError):
        unpack(encoding, b"\xff\xfe not packed at all" * 20, 1_000_000)


@pytest.mark.parametrize("encoding", ["gzip, br", "compress", "identity, gzip", "\r\nx"])
def test_other_codings_are_refused(encoding: str) -> None:
    with pytest.raises(WireError):
        decompressor(encoding)
