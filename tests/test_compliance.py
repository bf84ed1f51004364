"""docs/compliance.md says nothing that no test proves: every "enforces" names tests, and they exist and are collected."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "compliance.md").read_text(encoding="utf-8")
ANSWERS = ("enforces", "supports", "not ours")
TABLES = ("OWASP Top 10 for LLM applications, 2025", "GDPR", "CCPA", "HIPAA, Security Rule (45 CFR 164)",
          "SOC 2, trust services criteria", "EU AI Act (Regulation 2024/1689)")  # fmt: skip


class Row(NamedTuple):
    table: str
    rule: str
    answer: str
    what: str
    tests: tuple[str, ...]


def _rows() -> list[Row]:
    rows, table = [], ""
    for line in PAGE.splitlines():
        if line.startswith("## "):
            table = line[3:]
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if table and line.startswith("|") and cells[0] != "rule" and not set(cells[0]) <= {"-"}:
            rows.append(
                Row(
                    table,
                    *cells[:3],
                    tuple(re.findall(r"`(tests/[^`]+)`", cells[3] if len(cells) > 3 else "")),
                )
            )
    return rows


ROWS = _rows()


def test_every_rule_book_is_there() -> None:
    assert set(TABLES) == {row.table for row in ROWS}
    assert {f"LLM{number:02}" for number in range(1, 11)} <= {row.rule[:5] for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table[:8]}: {row.rule[:40]}")
def test_an_answer_and_its_proof(row: Row) -> None:
    assert row.answer in ANSWERS
    assert bool(row.tests) is (row.answer == "enforces"), "an `enforces` names its tests, nothing else does"
    assert row.what or row.answer == "not ours"


def _collected(files: list[str]) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}


def test_every_named_test_runs_with_the_suite(request: pytest.FixtureRequest) -> None:
    """Collected by pytest with the project's own options: not gone, not renamed, not nightly."""
    named = {test for row in ROWS for test in row.tests}
    collected = {item.nodeid.partition("[")[0] for item in request.session.items}
    if not named <= collected:  # this run is of a part of the suite
        collected = _collected(sorted({test.partition("::")[0] for test in named}))

    assert [] == sorted(named - collected)
    assert len(named) >= 30
