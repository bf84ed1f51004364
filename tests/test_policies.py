"""Every policy that is shipped, and every policy in the docs, checks clean and can be built."""

import re
from pathlib import Path

import pytest

from llmshield import chain
from llmshield.policy import inspect, inspect_text

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted([*ROOT.glob("policies/*.yaml"), ROOT / "policy.example.yaml"])
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
WRITTEN = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, text in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
    if text.lstrip().startswith(("version:", "# policy.yaml"))
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_policies_are_clean(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PII_HASH_KEY", "a key of thirty-two characters!!")
    policy, findings = inspect(path)

    assert [] == list(findings)
    assert policy is not None
    assert chain.build(policy).modes


@pytest.mark.parametrize("text", WRITTEN)
def test_policies_in_the_docs_are_clean(text: str, tmp_path: Path) -> None:
    for name in re.findall(r"use: \./(\w+\.py)", text):
        (tmp_path / name).write_text(_example_plugin(), encoding="utf-8")
    policy, findings = inspect_text(text, source="docs.yaml", base=tmp_path)

    assert [] == list(findings)
    assert policy is not None


def test_there_are_policies_in_the_docs() -> None:
    assert len(WRITTEN) >= 3


def _example_plugin() -> str:
    """The plugin that docs/writing-plugins.md shows."""
    page = (ROOT / "docs" / "writing-plugins.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n# no_competitors\.py\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]
