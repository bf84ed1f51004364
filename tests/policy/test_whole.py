"""The whole shape of a policy is accepted, each section of it, and a broken one hides nothing about the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmshield.policy import inspect_text

WHOLE = Path(__file__).parent / "data" / "whole.yaml"


def test_the_whole_shape_is_accepted(folder: Path) -> None:
    policy, findings = inspect_text(WHOLE.read_text(), "whole.yaml", folder)

    assert [str(each) for each in findings] == []
    assert policy is not None


@pytest.mark.parametrize(
    "text",
    [
        "routes: [{match: {any: true}, to: [app], mid_stream: error, on_loss: record, strategy: ordered}]",
        "audit: {sink: 'file://a.jsonl', required: true, content: sealed, rotate: {size: 1MiB, every: never}, retention: 0s}",
        "tiers: {a: {rate: [5/minute], warn_at: []}}\nplugins: [{use: ./no_competitors.py}]",
        "providers: {a: {dialect: openai, api_key: 'file:///k'}, b: {dialect: openai}}\n"
        "routes: [{match: {any: true}, to: [a, b, app]}]\nplugins: [{use: ./no_competitors.py}]",
    ],
)
def test_what_is_built_passes(text: str, judge: Any) -> None:
    assert judge(f"version: 1\n{text}")[1] == ()


def test_broken_sections_hide_nothing(judge: Any) -> None:
    findings = judge(
        "version: 1\nroutes: [{match: 5, strategy: fastest}, 7]\nproviders: {a: {dialect: openai, api_key: 'nosuch://x'}}\negress: [x]\naudit: {required: 5}"
    )[1]

    assert {"LS310", "LS204"} <= {item.code for item in findings}
