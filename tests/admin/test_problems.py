"""Problem details: their form, and that no key gets into one."""

import ast
import json
from pathlib import Path
from typing import get_args

import pytest

from llmshield.admin.problems import KINDS, Code, Flaw, Problem
from llmshield.redact import redact, remember

ROOM = Path(__file__).parents[2] / "llmshield" / "admin"


@pytest.mark.parametrize("code", get_args(Code))
def test_each_code(code: Code) -> None:
    made = json.loads(Problem(code, "What was found.").body())

    assert {
        "type": f"urn:llmshield:problem:{code}", "title": KINDS[code].title, "status": KINDS[code].status,
        "detail": "What was found.", "code": code,
    } == made  # fmt: skip


def test_no_key_gets_into_one() -> None:
    remember("CANARY-7d5c2f0be0a14b77")
    problem = Problem("internal", "The provider said CANARY-7d5c2f0be0a14b77.")

    assert b"CANARY" not in problem.body()


def test_flaws_are_told() -> None:
    problem = Problem("invalid", "x", errors=[Flaw(place="body", at="for", message="found 1")])

    assert [{"place": "body", "at": "for", "message": "found 1"}] == json.loads(problem.body())["errors"]


def test_no_sentence_of_ours_is_taken_for_a_secret() -> None:
    """What redaction takes away, nobody can read: every text of the room goes through it unchanged."""
    texts = [
        node.value
        for file in ROOM.rglob("*.py")
        for tree in [ast.parse(file.read_text(encoding="utf-8"))]
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value != ast.get_docstring(tree, clean=False)
    ]

    assert [] == [text for text in texts if redact(text) != text]
