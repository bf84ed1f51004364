"""`llmshield spend`: figures from the journal, grouped and exact."""

import asyncio
import csv
import io
import json
from datetime import datetime
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import typer

from llmshield.cli.spend import Format, spend
from llmshield.errors import ShieldError
from llmshield.ledger import account
from llmshield.prices import usd
from llmshield.stores import Labels, Line, open_store
from llmshield.testing import FrozenClock

DAY = 86_400_000
NOON = 1_900_000_000_000 // DAY * DAY + DAY // 2

CALLS = [
    # id, tenant, model, picousd, in, out, day
    ("a", "acme", "gpt-4o", 1, 10, 5, 0),
    ("b", "acme", "gpt-4o", 2_000_000_000_000, 10, 5, 1),
    ("c", "acme", "=cmd()", 30, 10, 5, 1),
    ("d", "umbrella", "gpt-4o", 400, 10, 5, 1),
    ("lock.d", "umbrella", "", 0, 0, 0, 1),
]


@pytest.fixture
def store(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'spend.db'}"

    async def fill() -> None:
        opened = open_store(url)
        await opened.open()
        for id, tenant, model, amount, into, out, day in CALLS:
            await opened.settle(
                id,
                (Line(f"tenant={tenant}", "ever"),),
                amount,
                NOON + day * DAY,
                Labels(tenant, "openai", model),
                into,
                out,
            )
        await opened.close()

    asyncio.run(fill())
    return url


def run(by: str, store: str, format: Format = Format.json, **more: Any) -> int:
    return spend(by, format=format, policy=None, store=store, **more)


def test_by_tenant(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tenant", store) == 0

    assert json.loads(capsys.readouterr().out) == [
        {"tenant": "acme", "requests": 3, "input_tokens": 30, "output_tokens": 15, "usd": "2.000000000031"},
        {
            "tenant": "umbrella",
            "requests": 1,
            "input_tokens": 10,
            "output_tokens": 5,
            "usd": "0.000000000400",
        },
    ]


def test_by_several(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tenant,model,day", store) == 0

    rows = json.loads(capsys.readouterr().out)
    assert [(row["tenant"], row["model"], row["day"]) for row in rows] == [
        ("acme", "=cmd()", "2030-03-18"),
        ("acme", "gpt-4o", "2030-03-17"),
        ("acme", "gpt-4o", "2030-03-18"),
        ("umbrella", "gpt-4o", "2030-03-18"),
    ]


def test_from_and_to(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("day", store, since="2030-03-18") == 0
    assert [row["requests"] for row in json.loads(capsys.readouterr().out)] == [3]
    assert run("day", store, until="2030-03-18") == 0
    assert [row["usd"] for row in json.loads(capsys.readouterr().out)] == ["0.000000000001"]


def test_csv_holds_no_formulas(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model", store, Format.csv) == 0

    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["model", "requests", "input_tokens", "output_tokens", "usd"]
    assert rows[1] == ["'=cmd()", "1", "10", "5", "0.000000000030"]


def test_a_table(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tenant", store, Format.table) == 0
    assert "2.000000000031" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("by", "more", "words"),
    [
        ("nothing", {}, "--by 'nothing': expected some of tenant"),
        ("", {}, "--by ''"),
        ("tenant,colour", {}, "--by 'colour'"),
        ("tag:", {}, "--by 'tag:'"),
        ("day", {"since": "yesterday"}, "'yesterday': expected a day"),
        ("day", {"since": "2026-02-30"}, "'2026-02-30'"),
        ("day", {"until": "7 days"}, "'7 days'"),
        ("day", {"until": ""}, "'': expected a day"),
        ("day", {"time_zone": "Berlin"}, "'Berlin' is no time zone such as Europe/Berlin"),
        ("day", {"only": ["acme"]}, "--only 'acme': expected a word and a value"),
        ("day", {"only": ["day=2026-11-20"]}, "--only 'day'"),
    ],
)
def test_misuse(
    store: str, by: str, more: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(by, store, **more) == 2
    said = capsys.readouterr().err
    assert said.startswith("llmshield spend: ")
    assert words in said


def test_the_store_of_a_policy(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(f'version: 1\nserver: {{store: "{store}"}}\n')

    assert spend("tenant", format=Format.json, policy=file, store=None) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    with pytest.raises(typer.Exit) as ended:
        spend("tenant", format=Format.json, policy=tmp_path / "none", store=None)
    assert ended.value.exit_code == 2


def test_the_store_that_lies_here(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.Exit) as ended:
        spend("tenant", format=Format.json, policy=None, store=None)
    assert ended.value.exit_code == 2
    (tmp_path / "spend.db").rename(tmp_path / "llmshield.db")

    assert spend("tenant", format=Format.json, policy=None, store=None) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ShieldError, match="There is no store"):
        run("tenant", f"sqlite:///{tmp_path / 'other.db'}")
    assert not (tmp_path / "other.db").exists()


def test_memory_has_nothing_to_read() -> None:
    with pytest.raises(ShieldError, match="memory://"):
        run("tenant", "memory://")


# -- keys, tiers and tags; zones; every combination


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    """Three calls around midnight in Berlin, with what a cap by key, tier and tag counts."""
    url = f"sqlite:///{tmp_path / 'labelled.db'}"
    calls = [
        ("2026-11-20T22:59:59+00:00", "k1", "pro", "a,b=c", 1),
        ("2026-11-20T23:00:00+00:00", "k1", "free", "", 20),
        ("2026-11-30T23:30:00+00:00", "k2", "pro", "ü", 300),
    ]

    async def fill() -> None:
        opened = open_store(url)
        await opened.open()
        for index, (at, key, tier, team, amount) in enumerate(calls):
            cap = account(**{"cap": "*", "key": key, "tier": tier, "tag:team": team})
            await opened.settle(
                f"c{index}", (Line("tenant=acme", "ever"), Line(cap, "day:x")), amount,
                int(datetime.fromisoformat(at).timestamp() * 1000), Labels("acme", "openai", "gpt-4o"), 1, 1,
            )  # fmt: skip
        await opened.close()

    asyncio.run(fill())
    return url


BY = [
    ("key", [("k1", 21), ("k2", 300)]),
    ("tier", [("free", 20), ("pro", 301)]),
    ("tag:team", [("", 20), ("a,b=c", 1), ("ü", 300)]),
    ("day", [("2026-11-20", 1), ("2026-11-21", 20), ("2026-12-01", 300)]),
    ("month", [("2026-11", 21), ("2026-12", 300)]),
    ("week", [("2026-W47", 21), ("2026-W49", 300)]),
    ("hour", [("2026-11-20T23+0100", 1), ("2026-11-21T00+0100", 20), ("2026-12-01T00+0100", 300)]),
    ("provider", [("openai", 321)]),
]


@pytest.mark.parametrize(("by", "expected"), BY)
def test_by_each_word(
    labelled: str, by: str, expected: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(by, labelled, time_zone="Europe/Berlin") == 0

    rows = json.loads(capsys.readouterr().out)
    assert [(row[by], row["usd"]) for row in rows] == [(word, usd(amount)) for word, amount in expected]


def test_every_combination_adds_up(labelled: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tenant", "model", "provider", "key", "tier", "tag:team", "hour", "day", "week", "month"]
    for count in (2, 10):
        for names in list(combinations(words, count))[:20]:
            assert run(",".join(names), labelled, Format.csv) == 0
            rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
            assert list(rows[0]) == [*names, "requests", "input_tokens", "output_tokens", "usd"]
            assert sum(Decimal(row["usd"]) for row in rows) == Decimal("0.000000000321")


@pytest.mark.parametrize(
    ("only", "amount"),
    [
        (["key=k1"], 21),
        (["key=k1", "key=k2"], 321),
        (["key=k1", "tier=pro"], 1),
        (["tag:team=a*"], 1),
        (["model=gpt-*", "tenant=acme", "provider=openai"], 321),
        (["tenant=umbrella"], None),
    ],
)
def test_only(labelled: str, only: list[str], amount: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tenant", labelled, only=only) == 0

    assert [row["usd"] for row in json.loads(capsys.readouterr().out)] == ([usd(amount)] if amount else [])


@pytest.mark.parametrize(
    ("more", "amounts"),
    [
        ({"since": "2026-11-21", "time_zone": "Europe/Berlin"}, [20, 300]),
        ({"since": "2026-11-21"}, [300]),
        ({"until": "2026-12-01", "time_zone": "Europe/Berlin"}, [1, 20]),
        ({"since": "2026-11-21T00:00", "until": "2026-11-21T00:01", "time_zone": "Europe/Berlin"}, [20]),
        ({"since": "2026-11-20T18:00:00-05:00", "until": "2026-11-20T18:00:01-05:00"}, [20]),
        ({"since": "30m"}, [300]),
        ({"since": "11d", "until": "31m"}, [1, 20]),
    ],
)
def test_ranges(
    labelled: str, more: dict[str, str], amounts: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with FrozenClock(datetime.fromisoformat("2026-12-01T00:00:00+00:00").timestamp()):
        assert run("hour", labelled, **more) == 0

    assert [row["usd"] for row in json.loads(capsys.readouterr().out)] == [usd(amount) for amount in amounts]


def test_the_zone_of_the_policy(labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(f'version: 1\nserver: {{store: "{labelled}", time_zone: Asia/Tokyo}}\n')

    assert spend("day", format=Format.json, policy=file, store=None) == 0
    assert [row["day"] for row in json.loads(capsys.readouterr().out)] == ["2026-11-21", "2026-12-01"]


def test_the_hour_that_is_told_twice_is_two(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill() -> None:
        opened = open_store(store)
        await opened.open()
        for index, at in enumerate(("2025-10-26T00:30:00+00:00", "2025-10-26T01:30:00+00:00")):
            at_ms = int(datetime.fromisoformat(at).timestamp() * 1000)
            await opened.settle(f"t{index}", (Line("a", "ever"),), 1, at_ms, Labels("a", "b", "c"))
        await opened.close()

    asyncio.run(fill())
    assert run("hour", store, until="2025-10-27", time_zone="Europe/Berlin") == 0

    rows = json.loads(capsys.readouterr().out)
    assert [row["hour"] for row in rows] == ["2025-10-26T02+0100", "2025-10-26T02+0200"]
