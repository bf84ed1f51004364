"""Problem details: their form, and that no key gets into one."""

import json
from typing import get_args

import pytest

from llmshield.admin.problems import KINDS, Code, Flaw, Problem
from llmshield.redact import remember


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
