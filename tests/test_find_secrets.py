"""The project's own files hold no credential, and what says so would see one."""

from __future__ import annotations

import importlib.util
import random
import re
import string
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("find_secrets", ROOT / "scripts" / "find_secrets.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def _key(seed: int) -> str:
    rng = random.Random(seed)
    return "gh" + "p_" + "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(36))


def test_no_tracked_file_holds_a_credential(script: ModuleType) -> None:
    try:
        names = script.tracked()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git here")
    listed = script.known()

    assert [] == [f"{f.path}:{f.line} {f.rule}" for f in script.finds(names) if f.digest not in listed]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("llmshield/x.py", f"KEY = '{_key(1)}'", "github"),
        ("tests/x.py", f"KEY = '{_key(2)}'", "github"),
        ("docs/x.md", "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n-----END PRIVATE KEY-----", "private_key"),
        ("scripts/x.sh", "export DB_PASS" + "WORD=q8Zx71Lm02pQ", "assignment"),
    ],
)  # fmt: skip
def test_a_key_would_be_seen(script: ModuleType, name: str, text: str, rule: str) -> None:
    found = list(script.found_in(name, f"one\n{text}\n"))

    assert [(name, 2, rule)] == [(f.path, f.line, f.rule) for f in found]
    assert found[0].digest not in script.known()


def test_another_key_is_a_find_in_a_file_that_shows_some(script: ModuleType) -> None:
    first, second = (next(iter(script.found_in("tests/x.py", _key(seed)))) for seed in (3, 4))

    assert first.digest != second.digest


def test_the_list_holds_no_value() -> None:
    lines = (ROOT / "scripts" / "known_secrets.txt").read_text().splitlines()

    assert all(re.fullmatch(r"#.*|[0-9a-f]{16} \S+ [a-z0-9_]+", line) for line in lines)


def test_pre_commit_runs_it_and_fetches_nothing() -> None:
    config = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}

    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert hooks["secrets"]["entry"].endswith("scripts/find_secrets.py")
    forbidden = re.compile(hooks["private-keys-and-stores"]["files"])
    for name in ("a/b.pem", ".env", "x/.env.local", "keys.vault", "llmshield.db", "audit-20261120.jsonl"):
        assert forbidden.search(name), name
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert [] == [name for name in tracked if forbidden.search(name)]
