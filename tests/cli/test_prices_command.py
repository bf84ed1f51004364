"""`llmshield prices`: what holds, what the policy overrides, what changed since."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from llmshield.cli.prices import Format, compare, diff, prices_of, show
from llmshield.errors import PolicyError
from llmshield.prices import Prices

POLICY = """
version: 1
providers:
  mine: {dialect: openai, base_url: "http://127.0.0.1:1/v1", prices: {input: 1, output: 2.5, call: 0.01 USD/call},
         models: {allow: ["gpt-4o", "gpt-4o-mini", "own"]}}
  claude: {dialect: anthropic, models: {allow: ["claude-sonnet-4-5"]}}
routes: [{match: {any: true}, to: [mine]}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def shown(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], Any]:
    out = json.loads(capsys.readouterr().out)
    assert out["version"].startswith("genai-prices ")
    return {(row["provider"], row["model"]): row for row in out["prices"]}


def test_the_list_without_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro"], policy=None, format=Format.json) == 0

    rows = shown(capsys)
    assert rows["openai", "gpt-4o"]["rates"] == {"input": "2.5", "output": "10", "cache_read": "1.25"}
    assert rows["openai", "gpt-4o"]["max_output"] == 16_384
    tier = rows["anthropic", "claude-sonnet-4-5"]["tiers"][0]
    assert (tier["above"], tier["rates"]["input"]) == (200_000, "6")
    assert ("gemini", "gemini-2.5-pro") in rows


def test_all_of_it_is_what_calls_are_priced_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == show([], policy=None, format=Format.json)  # though it has models that nobody prices

    rows, prices = shown(capsys), Prices()
    assert len(rows) > 150
    for (provider, model), row in rows.items():
        price = prices.price(provider, provider, model)
        assert (price is None) == (row["source"] is None)
        if price is not None:
            assert {name: rate for name, rate in price.rates._asdict().items() if rate is not None} == {
                name: int(float(rate) * 10**12 + 0.5) for name, rate in row["rates"].items()
            }


def test_a_model_without_a_price(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(["gpt-9", "gpt-4o"], policy=None) == 1

    said = capsys.readouterr().out
    assert [line.split()[1:] for line in said.splitlines() if "gpt-9" in line] == [["gpt-9", "unknown"]]
    assert "USD per million tokens. list: genai-prices" in said


def test_the_prices_of_a_policy(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show([], policy=file, format=Format.json) == 0

    rows = shown(capsys)
    assert set(rows) == {("mine", "gpt-4o"), ("mine", "gpt-4o-mini"), ("claude", "claude-sonnet-4-5")}
    own = rows["mine", "gpt-4o"]
    assert (own["source"], own["rates"], own["call"]) == ("policy", {"input": "1", "output": "2.5"}, "0.01")
    assert show(["own"], policy=file, provider="mine", format=Format.json) == 0
    assert shown(capsys)["mine", "own"]["source"] == "policy"


def test_what_a_policy_overrides(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(None, [], policy=file, format=Format.json) == 1

    changes = json.loads(capsys.readouterr().out)
    assert {"provider": "mine", "model": "gpt-4o", "price": "input", "there": "2.5", "here": "1"} in changes
    assert {"provider": "mine", "model": "gpt-4o", "price": "call", "there": None, "here": "0.01"} in changes
    assert {change["provider"] for change in changes} == {"mine"}
    assert diff(None, ["gpt-4o-mini"], policy=file) == 1
    said = capsys.readouterr().out
    assert "0.15" in said
    assert "gpt-4o " not in said
    assert diff(None, [], policy=file, provider="claude") == 0


def test_another_version(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show([], policy=file, format=Format.json)
    text = capsys.readouterr().out
    saved = tmp_path / "prices.json"
    saved.write_text(text)
    assert diff(saved, [], policy=file) == 0
    old = json.loads(text)
    old["prices"][0]["rates"]["input"] = "7"
    old["prices"][2]["model"] = "gone"
    saved.write_text(json.dumps(old))
    capsys.readouterr()

    assert diff(saved, [], policy=file, format=Format.json) == 1
    changes = json.loads(capsys.readouterr().out)
    first = old["prices"][0]
    assert {
        "provider": first["provider"],
        "model": first["model"],
        "price": "input",
        "there": "7",
        "here": "1",
    } in changes
    assert {change["here"] for change in changes if change["model"] == "gone"} == {None}


def test_another_policy(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yml"
    other.write_text(POLICY.replace("output: 2.5", "output: 3"))

    assert diff(other, ["gpt-4o"], policy=file, format=Format.json) == 1
    assert json.loads(capsys.readouterr().out) == [
        {"provider": "mine", "model": "gpt-4o", "price": "output", "there": "3", "here": "2.5"}
    ]
    assert diff(file, [], policy=file) == 0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"prices": [1]}', '{"prices": [{"rates": 5}]}', "\x00", '{"prices": 3}']
)
def test_a_file_that_is_no_price_list(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text(text)

    assert diff(tmp_path / "x.json", [], policy=None) == 2
    assert "neither a policy" in capsys.readouterr().err


def test_misuse(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diff(None, [], policy=None) == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert diff(tmp_path / "none.json", [], policy=None) == 2
    assert "No such file" in capsys.readouterr().err
    assert show([], policy=file, provider="openai") == 2
    assert "there are mine, claude" in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        show([], policy=tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("version: 3")
    with pytest.raises(PolicyError):
        show([], policy=tmp_path / "bad.yaml")


def test_nothing_differs_from_itself() -> None:
    rows = prices_of(None, ("gpt-4*",), None)[1]

    assert list(compare(rows, rows)) == []
    assert rows
