"""What is not built yet is refused, each key at its line, and everything else of the whole shape is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmshield.policy import CODES, inspect_text
from llmshield.policy.unbuilt import ROWS

WHOLE = Path(__file__).parent / "data" / "whole.yaml"


@pytest.fixture
def judged(folder: Path) -> Any:
    return inspect_text(WHOLE.read_text(), "whole.yaml", folder)


def test_the_whole_shape_gives_exactly_these(judged: Any) -> None:
    policy, findings = judged
    lines = WHOLE.read_text().splitlines()
    marked = {
        (number, code)
        for number, line in enumerate(lines, 1)
        for code in CODES
        if code in line.partition("#")[2]
    }

    assert policy is None
    assert marked == {(item.line, item.code) for item in findings}, "\n".join(map(str, findings))
    assert all("not built yet: " in item.message and "; " in item.message for item in findings)


def test_every_row_is_in_the_whole_shape(judged: Any) -> None:
    assert {row.code for row in ROWS} <= {item.code for item in judged[1]}


@pytest.mark.parametrize(
    "text",
    [
        "routes: [{match: {any: true}, to: [app], mid_stream: error, on_loss: record, strategy: ordered}]",
        "audit: {required: false, content: none}",
        "tiers: {a: {rate: [5/minute], warn_at: []}}\nplugins: [{use: ./no_competitors.py}]",
        "providers: {a: {dialect: openai, api_key: 'file:///k'}, b: {dialect: openai}}\n"
        "routes: [{match: {any: true}, to: [a, b, app]}]\nplugins: [{use: ./no_competitors.py}]",
    ],
)
def test_what_is_built_passes(text: str, judge: Any) -> None:
    assert judge(f"version: 1\n{text}")[1] == ()


def test_broken_sections_hide_nothing(judge: Any) -> None:
    findings = judge(
        "version: 1\nroutes: [{match: 5, strategy: fastest}, 7]\nproviders: {a: {dialect: openai, api_key: 'nosuch://x'}}\negress: [x]\naudit: {required: true}"
    )[1]

    assert {"LS310", "LS911"} <= {item.code for item in findings}
