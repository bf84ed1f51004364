"""What a report makes of sights, connections and records, and how it is written."""

import csv
import io
import json
import time
from decimal import Decimal
from pathlib import Path

import pytest

from llmshield.egress import report
from llmshield.egress.report import Report
from llmshield.egress.sockets import Connection, Process
from llmshield.policy.egress import Egress

EGRESS = Egress.model_validate({"hosts": {"api.openai.com": "openai", "llm.internal.example": "own"}})
SIGHTS = [
    ("intercepted", "api.openai.com", "10.0.0.1", 5, 100.0, 300.0),
    ("passed", "api.mistral.ai", "10.0.0.2", 2, 100.0, 200.0),
    ("passed", "example.org", "10.0.0.2", 9, 100.0, 200.0),
    ("distrusted", "llm.internal.example", "10.0.0.3", 1, 50.0, 50.0),
]
WORKER = Process(7, 1000, "python3 worker.py")


def at(host: str, port: int = 443, process: Process | None = WORKER) -> Connection:
    return Connection(process, 1000, ("10.0.0.9", 50000), (host, port))


def test_hosts_of_providers_and_of_the_policy_and_no_others() -> None:
    found = report.hosts(SIGHTS, EGRESS)

    assert [(each.host, each.provider, each.listed) for each in found] == [
        ("api.mistral.ai", "Mistral", False),
        ("api.openai.com", "OpenAI", True),
        ("llm.internal.example", None, True),
    ]
    assert [each.host for each in report.hosts(SIGHTS, EGRESS, since=250.0)] == ["api.openai.com"]
    assert "example.org" in [each.host for each in report.hosts(SIGHTS, EGRESS, everything=True)]


def test_programs_by_address() -> None:
    addresses = {"203.0.113.1": "api.mistral.ai", "203.0.113.2": "api.openai.com"}
    connections = [
        at("203.0.113.1"), at("203.0.113.1"), at("203.0.113.2", process=None), at("203.0.113.1", 22),
        at("198.51.100.1"), at("127.0.0.1", 8080), at("127.0.0.1", 9000),
    ]  # fmt: skip
    found = report.programs(connections, EGRESS, addresses, ("0.0.0.0", 8080))

    assert [(each.via, each.host, each.listed, each.pid, each.connections) for each in found] == [
        ("straight", "api.mistral.ai", False, 7, 2),
        ("straight", "api.openai.com", True, None, 1),
        ("to the proxy", "", False, 7, 1),
    ]


def test_what_is_spoken_to_and_not_listed() -> None:
    found = Report(
        report.hosts(SIGHTS, EGRESS),
        report.programs([at("203.0.113.1")], EGRESS, {"203.0.113.1": "api.x.ai"}, ("", 1)),
    )

    assert found.shadow == ["api.mistral.ai", "api.x.ai"]


RECORDS = [
    {"kind": "head", "time": "2026-11-20T10:00:00Z"},
    {"kind": "call", "time": "2026-11-20T10:00:00Z", "provider": "openai", "model": "gpt", "answered_model": "gpt-5-1",
     "tenant": "a", "action": "allow", "input_tokens": 10, "output_tokens": 5, "cost_usd": "0.100000000001"},
    {"kind": "call", "time": "2026-11-20T11:00:00Z", "provider": "openai", "model": "gpt", "answered_model": "gpt-5-1",
     "tenant": "a", "action": "allow", "input_tokens": 10, "output_tokens": 5, "cost_usd": "0.200000000002"},
    {"kind": "call", "time": "2026-11-20T11:00:00Z", "provider": None, "model": "gpt", "tenant": "a", "action": "block"},
    {"kind": "call", "time": "2026-11-20T11:00:00Z", "provider": "own", "model": "m", "tenant": "", "action": "allow",
     "cost_usd": "nonsense"},
]  # fmt: skip


def test_spend_is_exact_and_says_what_has_no_price() -> None:
    first, blocked, own = report.spend(RECORDS)

    assert (first.model, first.calls, first.input_tokens, first.cost_usd) == (
        "gpt-5-1",
        2,
        20,
        Decimal("0.300000000003"),
    )
    assert (blocked.provider, blocked.blocked, blocked.unpriced) == ("", 1, 0)
    assert (own.unpriced, own.cost_usd) == (1, 0)
    later = report.spend(RECORDS, since=1_795_172_400.0 - 1)
    assert later[0].calls == 1


def test_records_are_read_line_by_line_and_broken_ones_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"kind": "call"}\nnonsense\n[1]\n{"kind": "head"}\n{"torn')

    assert [*report.read_records([path])] == [{"kind": "call"}, {"kind": "head"}]


def test_names_that_do_not_answer_hold_nobody_up() -> None:
    def look_up(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name == "slow.example":
            time.sleep(20)
        if name == "gone.example":
            raise OSError
        return [(0, 0, 0, "", ("203.0.113.1", 443)), (0, 0, 0, "", (f"2001:db8::{len(name)}", 443, 0, 0))]

    names = ["slow.example", "b.example", "gone.example", "a.example.org", "*.example"]
    found = report.resolve(names, 1.0, look_up)
    assert found == {"203.0.113.1": "b.example", "2001:db8::9": "b.example", "2001:db8::13": "a.example.org"}


WHOLE = Report(
    report.hosts(
        [*SIGHTS, ("passed", "=cmd|x.openai.azure.com", "10.0.0.2", 1, 0.0, 0.0)], EGRESS, everything=True
    ),
    report.programs([at("203.0.113.1")], EGRESS, {"203.0.113.1": "api.x.ai"}, ("", 1)),
    report.spend(RECORDS),
    ["something could not be looked at"],
)


def test_as_csv_each_row_says_what_it_is_and_nothing_is_a_formula() -> None:
    rows = [*csv.DictReader(io.StringIO(report.as_csv(WHOLE)))]

    assert {row["kind"] for row in rows} == {"host", "program", "spend"}
    assert len(rows) == len(WHOLE.hosts) + len(WHOLE.programs) + len(WHOLE.spend)
    assert "'=cmd|x.openai.azure.com" in {row["host"] for row in rows}
    assert {row["cost_usd"] for row in rows if row["model"] == "gpt-5-1"} == {"0.300000000003"}
    assert {row["last"] for row in rows if row["host"] == "api.openai.com"} == {"1970-01-01T00:05:00Z"}


def test_as_json() -> None:
    found = json.loads(report.as_json(WHOLE))

    assert found["shadow"] == WHOLE.shadow
    assert found["spend"][0]["cost_usd"] == "0.300000000003"
    assert found["programs"][0]["program"] == "python3 worker.py"
    assert found["notes"] == ["something could not be looked at"]


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        (WHOLE, ["Not in egress.hosts, and spoken to: api.mistral.ai, api.x.ai", "Seen at the proxy", "Open now",
                 "Through the gateway", "python3 worker.py", "note: something"]),
        (Report(), ["Nobody was seen"]),
        (Report([report.Host("a\x1b[31m.example", None, False, "x", "passed", 1, 0, 0)]), ["a?[31m.example"]),
    ],
)  # fmt: skip
def test_as_text(found: Report, parts: list[str]) -> None:
    text = report.as_text(found)

    assert [part for part in parts if part not in text] == []
    assert "\x1b" not in text
