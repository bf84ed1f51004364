"""Records are found by whoever asks, in order, over all segments; a CSV is data for every spreadsheet."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.errors import SecretError
from llmshield.evidence import Segment
from llmshield.evidence.searching import (
    COLUMNS,
    Found,
    Query,
    cell,
    find,
    open_texts,
    opened,
    row,
    seal_texts,
)
from llmshield.sealing import KeyRing

RECORDS = {
    "a": {"tenant": "acme", "model": "gpt-4o", "answered_model": "gpt-4o-2024", "action": "allow", "client": "hmac:1"},
    "b": {"tenant": "acme", "action": "redact", "user": "p:1", "key_id": "hmac:k",
          "verdicts": [{"plugin": "pii", "action": "redact", "findings": [{"type": "EMAIL", "count": 2, "place": "/a"}]}]},
    "c": {"tenant": "b", "attempts": [{"provider": "openai", "model": "m", "outcome": "failed"}, {"provider": "local"}]},
    "d": {"kind": "admin", "actor": "hmac:k", "action": "block.add"},
    "e": {"content": {"mode": "hash", "texts": [{"role": "user", "place": "/m", "hash": "h1"}], "cut": 0}},
    "f": {"content": {"mode": "redacted", "texts": [["user", "/m", "hello"]], "cut": 0},
          "verdicts": [{"plugin": "pii", "action": "allow"}]},
}  # fmt: skip


@pytest.fixture
def paths(tmp_path):
    """Two segments whose records alternate in time; one has a line of somebody else, and a torn end."""
    sink = tmp_path / "audit.jsonl"
    one, two = Segment.open(sink), Segment.open(sink)
    for segment in (one, two):
        segment.append(
            [("2026-11-20T10:00:00.000Z", b'{"kind":"head","segment":"%b"}' % segment.id.encode())]
        )
    for number, (name, record) in enumerate(RECORDS.items()):
        body = json.dumps({"kind": "call", "request_id": name} | record).encode()
        (one, two)[number % 2].append([(f"2026-11-20T10:00:0{number + 1}.000Z", body)])
    one.close()
    two.close()
    with sink.open("ab") as file:
        file.write(b'[1]\n"text"\n{"request_id": 5}\n\xff\n{"seq":9,"pr')
    return [one.path, two.path]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(frozenset({"call", "admin"})), "abcdef"),
        (Query(frozenset({"call"}), tenant="acme"), "ab"),
        (Query(frozenset({"admin"})), "d"),
        (Query(users=frozenset({"p:1", "p:2"})), "b"),
        (Query(users=frozenset()), ""),
        (Query(clients=frozenset({"hmac:1"})), "a"),
        (Query(keys=frozenset({"hmac:k"})), "bd"),
        (Query(since="2026-11-20T10:00:03.000Z", until="2026-11-20T10:00:05.000Z"), "cd"),
        (Query(model="gpt-4o"), "a"),
        (Query(model="gpt-4o-2024"), "a"),
        (Query(provider="local"), "c"),
        (Query(action="redact"), "b"),
        (Query(plugin="pii"), "b"),
        (Query(plugin="pii:redact"), "b"),
        (Query(plugin="pii:allow"), "f"),
        (Query(request_id="e"), "e"),
        (Query(texts=frozenset({"h1"})), "e"),
        (Query(texts=frozenset({"h2"}), said="hello"), "f"),
        (Query(tenant="acme", action="allow", model="another"), ""),
    ],
)
def test_what_is_asked_for_is_found_in_order_of_time(paths, query, expected):
    assert "".join(found.record["request_id"] for found in find(paths, query)) == expected


def test_where_it_stands_is_told(paths):
    (found,) = find(paths, Query(request_id="b"))

    assert (found.path, found.line) == (paths[1], 2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-2+3", "'-2+3"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "'\t=1"),
        ("  =1", "'  =1"), ("\u3000＝1", "'\u3000＝1"), ("＝1", "'＝1"), ("|calc", "'|calc"), ("%0A", "'%0A"),
        ("-1", "-1"), ("-0.000000000001", "-0.000000000001"), (5, "5"), (-5, "-5"), (None, ""), ("gpt-4o", "gpt-4o"), (True, "true"),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(value, expected):
    assert cell(value) == expected


@given(st.text())
def test_any_text_is_one_cell(text):
    file = io.StringIO(newline="")
    csv.writer(file).writerow([cell(text), "next"])

    ((first, second),) = csv.reader(io.StringIO(file.getvalue(), newline=""))

    assert first in {text, f"'{text}"}
    assert second == "next"
    assert not first.lstrip(" \u00a0\u3000\u200b\ufeff").startswith(("=", "@", "\t", "\r", "＝"))


def test_a_row_has_every_column(paths):
    (found,) = find(paths, Query(request_id="b"))
    said = dict(zip(COLUMNS, row(found), strict=True))

    assert said["findings"] == "EMAILx2@/a"
    assert said["verdicts"] == "pii:redact"
    assert said["tenant"] == "acme"
    assert said["file"] == found.path.name


def test_sealed_texts_open_with_their_key_and_for_their_record_only():
    ring, other = KeyRing(b"1" * 32), KeyRing(b"2" * 32)
    record = {
        "request_id": "a",
        "user": "p:1",
        "content": {"mode": "sealed", "sealed": seal_texts('[["user","/m","hi"]]', ring, "a"), "cut": 3},
    }

    assert opened(record, {"p:1": ring}, [])["content"] == {
        "mode": "sealed",
        "texts": [["user", "/m", "hi"]],
        "cut": 3,
    }
    for people, who, id in [
        ({}, "p:1", "a"),
        ({"p:1": other}, "p:1", "a"),
        ({"p:1": ring}, "p:1", "b"),
        ({"p:1": ring}, None, "a"),
    ]:
        closed = opened(record | {"user": who, "request_id": id}, people, [])
        assert closed["content"] == {"mode": "sealed", "opened": False}
    assert opened(record | {"user": None}, {}, [other, ring])["content"]["texts"]
    assert opened({"content": None}, {}, []) == {"content": None}
    with pytest.raises(SecretError):
        open_texts("not base64!", ring, "a")


def test_a_segment_of_nothing_is_passed_over(tmp_path):
    (tmp_path / "audit.jsonl").write_bytes(b"")
    (tmp_path / "audit-2.jsonl").write_bytes(b"garbage")

    assert list(find(tmp_path.glob("*.jsonl"), Query())) == []


def test_many_segments_do_not_need_as_many_files(tmp_path):
    for number in range(250):
        line = b'{"time":"2026-11-20T10:%02d:%02d.000Z","kind":"call","n":%d}\n' % (
            number // 60,
            number % 60,
            number,
        )
        (tmp_path / f"audit-{number:03}.jsonl").write_bytes(line)

    found = list(find(tmp_path.glob("*.jsonl"), Query()))

    assert [each.record["n"] for each in found] == list(range(250))
    assert isinstance(found[0], Found)
