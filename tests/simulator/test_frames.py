"""Writing events: every style is read back as the same events."""

import gzip
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.simulator.frames import HUGE, INFINITE, NAN, Pace, Style, compress, dump, split, sse, written
from llmshield.simulator.plan import Event, Pause, Reset

TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
STYLES = st.builds(
    Style,
    eol=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    space=st.sampled_from([b" ", b""]),
    multiline=st.booleans(),
    comments=st.sampled_from([0, 300]),
    ascii=st.booleans(),
)


def read(data, eol):
    """What the WHATWG's rules make of a stream: (event name, data)."""
    found = []
    name, lines = None, []
    for line in data.split(eol):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if lines:
                found.append((name, b"\n".join(lines)))
            name, lines = None, []
        elif field == b"data":
            lines.append(value)
        elif field == b"event":
            name = value.decode()
    return found


@given(
    st.lists(
        st.tuples(st.dictionaries(st.text(), TREES, max_size=3), st.sampled_from([None, "ping"])), max_size=4
    ),
    STYLES,
)
def test_every_style_reads_back(events, style):
    data = b"".join(sse(Event(tree, name=name), style) for tree, name in events)

    assert [(name, tree) for tree, name in events] == [
        (name, json.loads(d)) for name, d in read(data, style.eol)
    ]


@given(TREES)
def test_dump_is_json(tree):
    assert json.loads(dump(tree, Style())) == tree
    assert dump(tree, Style(ascii=True)).isascii()


def test_lone_surrogates_and_stand_ins():
    assert dump({"a": "\ud83d"}, Style()) == b'{"a":"\\ud83d"}'
    assert (
        dump({"a": [NAN, INFINITE, HUGE]}, Style(stand_ins=True)) == b'{"a":[NaN,1e999,18446744073709551616]}'
    )


def steps(events, style=None, pace=None, array=False):
    return list(written(events, style or Style(), pace or Pace(), random.Random(1), array=array))


def test_arrays():
    made = steps([Event({"a": 1}), Event({"b": 2})], array=True)

    assert made == [b'[{"a":1}', b',\r\n{"b":2}', b"]"]
    assert json.loads(b"".join(steps([], array=True))) == []


def test_paces_and_steps_among_events():
    made = steps([Event({}), Reset(), Event({})], pace=Pace(ttft=1.0, delay=0.5))

    assert made == [Pause(1.0), b"data: {}\n\n", Reset(), Pause(0.5), b"data: {}\n\n"]
    drawn = [Pace(jitter=0.5).draw(2.0, random.Random(seed)) for seed in range(50)]
    assert 1.0 <= min(drawn) < max(drawn) <= 3.0


@given(st.lists(st.binary(min_size=1), max_size=5), st.integers(1, 9))
def test_splitting_and_packing_keep_the_bytes(parts, size):
    pieces = [p for p in split(parts, size) if isinstance(p, bytes)]

    assert b"".join(pieces) == b"".join(parts)
    assert all(len(p) <= size for p in pieces)
    assert gzip.decompress(b"".join(compress(parts, "gzip"))) == b"".join(parts)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_each_piece_can_be_unpacked_as_it_comes(encoding):
    import zlib

    import brotli
    import zstandard

    unpack = {
        "gzip": zlib.decompressobj(31).decompress,
        "deflate": zlib.decompressobj(15).decompress,
        "br": brotli.Decompressor().process,
        "zstd": zstandard.ZstdDecompressor().decompressobj().decompress,
    }[encoding]
    packed = compress(iter([b"first", Pause(0), b"second"]), encoding)

    assert unpack(next(packed)) == b"first"
    assert next(packed) == Pause(0)
    assert unpack(next(packed)) == b"second"
