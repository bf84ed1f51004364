"""`llmshield spend`: figures from the journal, grouped and exact."""

import asyncio
import csv
import io
import json
from pathlib import Path

import pytest

from llmshield.cli.spend import Format, spend
from llmshield.errors import ShieldError
from llmshield.stores import Labels, Line, open_store

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


def run(
    by: str, store: str, format: Format = Format.json, since: str | None = None, until: str | None = None
) -> int:
    return spend(by, format=format, policy=None, store=store, since=since, until=until)


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
    ("by", "since"), [("nothing", None), ("", None), ("tenant,colour", None), ("day", "yesterday")]
)
def test_misuse(store: str, by: str, since: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(by, store, since=since) == 2
    assert capsys.readouterr().err.startswith("llmshield spend: ")


def test_the_store_of_a_policy(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(f'version: 1\nserver: {{store: "{store}"}}\n')

    assert spend("tenant", format=Format.json, policy=file, store=None, since=None, until=None) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert (
        spend("tenant", format=Format.json, policy=tmp_path / "none", store=None, since=None, until=None) == 2
    )


def test_the_store_that_lies_here(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert spend("tenant", format=Format.json, policy=None, store=None, since=None, until=None) == 2
    (tmp_path / "spend.db").rename(tmp_path / "llmshield.db")

    assert spend("tenant", format=Format.json, policy=None, store=None, since=None, until=None) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ShieldError, match="There is no store"):
        run("tenant", f"sqlite:///{tmp_path / 'other.db'}")
    assert not (tmp_path / "other.db").exists()


def test_memory_has_nothing_to_read() -> None:
    with pytest.raises(ShieldError, match="/usage"):
        run("tenant", "memory://")
