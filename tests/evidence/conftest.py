"""Segments as `audit` writes them, and the first thing that is wrong with them."""

import json

import pytest

from llmshield.evidence import Segment, segments, verify
from llmshield.evidence.heads import anchor, others

TIME = "2026-11-20T10:00:00.000Z"


@pytest.fixture
def sink(tmp_path):
    return tmp_path / "audit.jsonl"


def _head(segment):
    """A head record as `audit` writes it."""
    body = {
        "kind": "head",
        "segment": segment.id,
        "others": others(segment.path.with_name("audit.jsonl"), segment.id),
    }
    return json.dumps(body, separators=(",", ":")).encode()


def _fill(sink, count=10, start=0):
    """A segment with a head and `count` records, anchored and closed."""
    segment = Segment.open(sink)
    segment.append([(TIME, _head(segment))])
    segment.append((TIME, b'{"kind":"call","n":%d}' % n) for n in range(start, start + count))
    anchor(segment)
    segment.close()
    return segment


def _fault(sink):
    """(line, record) of the first fault, None when all is good."""
    faults = [(report.line, report.seq) for report in verify(segments(sink)) if report.fault]
    return faults[0] if faults else None


@pytest.fixture(scope="session")
def head():
    """`head(segment)`: a head record as `audit` writes it."""
    return _head


@pytest.fixture(scope="session")
def fill():
    """`fill(sink, count, start)`: a segment with a head and `count` records, anchored and closed."""
    return _fill


@pytest.fixture(scope="session")
def fault():
    """`fault(sink)`: (line, record) of the first fault, None when all is good."""
    return _fault
