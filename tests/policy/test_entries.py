"""Plugins of a policy: settings beside `use` and under `with`, defaults, and every way in which one can't be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmshield.policy import inspect_text, loads

HEAD = "from llmshield.hookspecs import Plugin, Settings as Base\n"

BROKEN = [
    ("syntax", "def f(:\n", "LS402", "mine.py:1 can't be imported: SyntaxError"),
    ("raises", "x = 1\n\nraise RuntimeError('no')\n", "LS402", "mine.py:3 can't be imported: RuntimeError: no"),
    ("raises deeper", "def f():\n    return 1 / 0\nf()\n", "LS402", "mine.py:2 can't be imported: ZeroDivisionError"),
    ("imports", "import no_such_module_anywhere\n", "LS402", "mine.py:1 can't be imported: ModuleNotFoundError"),
    ("none", "x = 1\n", "LS402", "found none, expected one public subclass of Plugin"),
    ("imported only", HEAD, "LS402", "found none"),
    ("two", HEAD + "class A(Plugin): ...\nclass B(Plugin): ...\n", "LS402", "found A and B, expected one"),
    ("ignores keys", HEAD + "from pydantic import BaseModel\nclass S(BaseModel): ...\nclass A(Plugin):\n    Settings = S\n", "LS402", "would ignore unknown keys"),
    ("no model", HEAD + "class A(Plugin):\n    Settings = dict\n", "LS402", "would ignore unknown keys"),
    ("exits", "import sys\n\nsys.exit(3)\n", "LS402", "mine.py:3 can't be imported: SystemExit: 3"),
    ("a hook misspelt", HEAD + "class A(Plugin):\n    def pre_requst(self, call): ...\n", "LS402", "did you mean 'pre_request'?"),
    ("a hook's argument", HEAD + "class A(Plugin):\n    def on_failure(self, call, why): ...\n", "LS402", "on_failure() takes why; it may take call, failure, by these names"),
    ("validator breaks", HEAD + "from pydantic import model_validator\nclass A(Plugin):\n    class Settings(Base):\n        @model_validator(mode='after')\n        def f(self):\n            return 1 / 0\n", "LS402", "the settings' check raised ZeroDivisionError"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "code", "words"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_broken_plugin(source: str, code: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(source)
    policy, findings = inspect_text("version: 1\nplugins: [{use: ./mine.py}]", base=tmp_path)

    assert policy is None
    assert [(code, 2)] == [(item.code, item.line) for item in findings]
    assert words in findings[0].message


SETTINGS = [
    ("- {use: ./no_competitors.py, entities: {A: {action: hide}}}", "LS203", "plugins[0].entities.A.action"),
    (
        "- {use: ./no_competitors.py, with: {entities: {A: {action: hide}}}}",
        "LS203",
        "plugins[0].with.entities.A.action",
    ),
    (
        "- {use: ./no_competitors.py, entities: {A: {action: mask, keep_lats: 1}}}",
        "LS201",
        "plugins[0].entities.A.keep_lats",
    ),
    (
        "- {use: ./no_competitors.py, entities: {A: {action: mask}, email: {action: mask}}}",
        "LS206",
        "plugins[0].entities.email",
    ),
    (
        "- {use: ./no_competitors.py, with: {entities: {email: {action: mask}}}}",
        "LS206",
        "plugins[0].with.entities.email",
    ),
    ("- {use: ./no_competitors.py, pause: 5}", "LS206", "plugins[0].pause"),
    ("- {use: ./no_competitors.py, names: [A, b]}", "LS206", "plugins[0].names"),
    ("- {use: ./no_competitors.py, names: Initech}", "LS204", "plugins[0].names"),
    ("- {use: ./no_competitors.py, moed: monitor}", "LS201", "plugins[0].moed"),
    ("- {use: ./no_competitors.py, with: [x]}", "LS204", "plugins[0].with"),
    ("- {use: ./no_competitors.py, mode: off}", "LS203", "plugins[0].mode"),
    ("- {name: x}", "LS202", "plugins[0].use"),
    ("- use: 5", "LS204", "plugins[0].use"),
    ("- pii", "LS204", "plugins[0]"),
    ("- {use: ./no_competitor.py}", "LS401", "plugins[0].use"),
    ("- {use: /abs/x.py}", "LS402", "plugins[0].use"),
    ("- {use: ./a/../../x.py}", "LS402", "plugins[0].use"),
    ("- {use: os.path}", "LS401", "plugins[0].use"),
    ("- {use: _private}", "LS401", "plugins[0].use"),
    ("- {use: __init__}", "LS401", "plugins[0].use"),
]


@pytest.mark.parametrize(("line", "code", "path"), SETTINGS)
def test_finding_at_its_place(line: str, code: str, path: str, judge: Any) -> None:
    _, findings = judge(f"version: 1\nplugins:\n{line}")

    assert [(code, 3, path)] == [(item.code, item.line, item.path) for item in findings]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("- {use: ./no_competitors.py, moed: monitor}", "did you mean 'mode'?"),
        ("- {use: ./no_competitors.py, nams: [x]}", "did you mean 'names'?"),
        ("- {use: ./no_competitors.py, with: {entites: {}}}", "did you mean 'entities'?"),
        (
            "- {use: ./no_competitors.py, entities: {A: {actoin: mask, action: mask}}}",
            "did you mean 'action'?",
        ),
        ("- {use: ./no_competitors.py, entities: {A: {action: maks}}}", "did you mean 'mask'?"),
        ("- {use: ./no_competitor.py}", "did you mean './no_competitors.py'?"),
    ],
)
def test_hints(line: str, hint: str, judge: Any) -> None:
    assert [hint] == [item.hint for item in judge(f"version: 1\nplugins:\n{line}")[1]]


def test_a_common_word_of_the_plugins_own_goes_under_with(folder: Path) -> None:
    policy = loads(
        "version: 1\nplugins: [{use: ./no_competitors.py, timeout: 2s, with: {timeout: 7}}]", base=folder
    )
    entry = policy.plugins[0]
    settings: Any = entry.settings

    assert (entry.timeout, settings.timeout) == (2.0, 7)


def test_defaults_and_names(folder: Path) -> None:
    policy = loads(
        "version: 1\ndefaults: {mode: monitor, on_error: open, timeout: 1s}\nplugins:\n"
        "- use: ./no_competitors.py\n- {use: ./no_competitors.py, name: second, mode: disabled, on_error: closed, timeout: 2s}",
        base=folder,
    )

    assert [(item.name, item.mode, item.on_error, item.timeout, item.line) for item in policy.plugins] == [
        ("no_competitors", "monitor", "open", 1.0, 4),
        ("second", "disabled", "closed", 2.0, 5),
    ]
    assert policy.plugins[0].plugin is policy.plugins[1].plugin


def test_in_a_subfolder(folder: Path) -> None:
    (folder / "own").mkdir()
    (folder / "no_competitors.py").rename(folder / "own" / "names.py")

    assert loads("version: 1\nplugins: [{use: ./own/names.py}]", base=folder).plugins[0].name == "names"


def test_without_a_folder() -> None:
    _, findings = inspect_text("version: 1\nplugins: [{use: ./x.py}]")

    assert [item.code for item in findings] == ["LS402"]
    assert "has no folder" in findings[0].message


@pytest.mark.parametrize("written", ["on_error: open", "on_error: closed", ""])
def test_money_fails_closed_whatever_the_defaults_say(written: str, judge: Any) -> None:
    policy, findings = judge(
        f"version: 1\ndefaults: {{on_error: open}}\nplugins:\n- use: injection\n- use: cost_cap\n  {written}"
    )

    assert [(item.code, item.line) for item in findings if item.severity == "error"] == (
        [("LS405", 6)] if "open" in written else []
    )
    if policy is not None:
        assert [item.on_error for item in policy.plugins] == ["open", "closed"]
