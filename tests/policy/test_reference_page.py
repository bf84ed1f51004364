"""docs/policy.md is what scripts/gen_docs.py makes of the code today, and names every key and code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from llmshield.policy import CODES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gen_docs() -> Any:
    spec = importlib.util.spec_from_file_location("gen_docs", ROOT / "scripts" / "gen_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fresh(gen_docs: Any) -> None:
    assert (ROOT / "docs" / "policy.md").read_text() == gen_docs.policy(), "run scripts/gen_docs.py"


def test_every_other_page_is_fresh(gen_docs: Any) -> None:
    stale = [name for name, page in gen_docs.PAGES.items() if (ROOT / "docs" / name).read_text() != page()]

    assert stale == [], "run scripts/gen_docs.py"


def test_complete() -> None:
    page = (ROOT / "docs" / "policy.md").read_text()

    assert all(code in page for code in CODES)
    for key in ("`server.limits.body`", "`providers.NAME.timeout.first_token`", "`routes[].to[].provider`", "`plugins[].with`",
                "`tiers.NAME.budget`", "`overrides[].plugins.NAME.mode`", "`egress.hosts`"):  # fmt: skip
        assert key in page, key
