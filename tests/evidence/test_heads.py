"""A missing end is noticed: by the anchor, by the list of heads, and by what was told elsewhere."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from llmshield.evidence import Segment, anchor_path, heads_path, segments, verify
from llmshield.evidence import heads as heads_of

TIME = "2026-11-20T10:00:00.000Z"


def fill(sink, count=5, *, lists=(), name=None):
    """A segment, anchored and noted in lists of heads."""
    segment = Segment.open(name or sink)
    others = heads_of.others(sink, segment.id)
    head = {"kind": "head", "segment": segment.id, "others": others, "heads": "audit.heads"}
    segment.append([(TIME, json.dumps(head, separators=(",", ":")).encode())])
    segment.append((TIME, b'{"n":%d}' % n) for n in range(count))
    heads_of.anchor(segment)
    for path in (heads_path(sink), *lists):
        heads_of.note(path, heads_of.line_of(segment, TIME))
    segment.close()
    return segment


def faults(sink, **more):
    return [
        (r.path.name, r.line, r.seq, r.fault) for r in verify(segments(sink), sink=sink, **more) if r.fault
    ]


def test_a_whole_segment_that_is_gone_is_named(sink):
    fill(sink)
    second = fill(sink, name=sink.with_name("audit-2.jsonl"))
    assert faults(sink) == []

    second.path.unlink()
    anchor_path(second.path).unlink()

    ((name, line, seq, fault),) = faults(sink)
    assert (name, line, seq) == ("audit.heads", 2, 6)
    assert second.id in fault
    assert "audit-2.jsonl" in fault


def test_an_end_cut_off_with_its_anchor_is_found_by_the_list(sink):
    fill(sink, 10)
    lines = sink.read_bytes().splitlines(keepends=True)
    sink.write_bytes(b"".join(lines[:7]))
    anchor_path(sink).unlink()

    ((name, line, seq, fault),) = faults(sink)
    assert (name, line, seq) == ("audit.jsonl", 8, 8)
    assert "audit.heads:1 quotes record 11" in fault


def test_a_list_that_is_gone_is_noticed(sink):
    fill(sink)
    heads_path(sink).unlink()

    ((name, _, _, fault),) = faults(sink)
    assert name == "audit.heads"
    assert "is gone" in fault


def test_everything_rewritten_is_found_by_heads_kept_elsewhere(sink, tmp_path):
    """Somebody with the folder in hand makes file, anchor and list anew, with correct hashes."""
    elsewhere = tmp_path / "elsewhere" / "heads.jsonl"
    first = fill(sink, 5, lists=[elsewhere])
    for path in (sink, anchor_path(sink), heads_path(sink)):
        path.unlink()
    forged = Segment.open(sink)
    forged.id = first.id
    head = {"kind": "head", "segment": first.id, "others": {}}
    forged.append([(TIME, json.dumps(head, separators=(",", ":")).encode())])
    forged.append((TIME, b'{"n":%d}' % (n + 1)) for n in range(5))
    forged.close()

    assert faults(sink) == []
    ((name, line, seq, _),) = faults(sink, heads=[elsewhere])
    assert (name, line, seq) == ("audit.jsonl", 6, 6)


def test_a_torn_line_of_the_list_is_passed_over_and_ended(sink):
    fill(sink)
    with heads_path(sink).open("ab") as file:
        file.write(b'{"segment":"to')
    fill(sink, name=sink.with_name("audit-2.jsonl"))

    assert [head.line for head in heads_of.read(heads_path(sink))] == [1, 3]
    assert faults(sink) == []


@pytest.mark.parametrize("status", [200, 503])
def test_a_head_is_sent_to_an_address(sink, status):
    got = []

    class Notary(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *said):
            pass

    with HTTPServer(("127.0.0.1", 0), Notary) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        line = heads_of.line_of(fill(sink), TIME)
        url = f"http://127.0.0.1:{server.server_port}/heads"
        if status == 200:
            heads_of.post(url, line)
        else:
            with pytest.raises(OSError, match="503"):
                heads_of.post(url, line)
        thread.join()

    assert got == [json.loads(line)]
