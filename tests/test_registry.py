"""From names to code: rooms, entry points, files; and what makes a name unusable."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmshield import registry
from llmshield.errors import PluginError
from llmshield.hookspecs import Plugin

PLUGIN = "from llmshield.hookspecs import Plugin\nclass Mine(Plugin):\n    mark = {mark!r}\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Installs a distribution with entry points, for one test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entries.cache_clear()

    def install(dist: str, entries: str, **modules: str) -> None:
        for name, source in modules.items():
            (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entries)
        importlib.invalidate_caches()
        registry._entries.cache_clear()

    yield install
    registry._entries.cache_clear()
    for name in [
        name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))
    ]:
        del sys.modules[name]


def test_rooms() -> None:
    assert {"env", "file"} <= set(registry.names("resolver"))
    assert not any(name.startswith("_") for kind in registry.ROOMS for name in registry.names(kind))
    assert registry.find("resolver", "env").__name__ == "llmshield.resolvers.env"


@pytest.mark.parametrize("kind", ["dialect", "store"])
def test_members_are_classes(kind: Any) -> None:
    for name in registry.names(kind):
        assert registry.find(kind, name).__module__.startswith(registry.ROOMS[kind].package)


def test_listing_imports_nothing() -> None:
    before = set(sys.modules)
    registry._shipped.cache_clear()
    registry.names("plugin")

    assert not [name for name in set(sys.modules) - before if name.startswith("llmshield_plugins.")]


@pytest.mark.parametrize(
    "name", ["nope", "", "os", "os.path", "..", "_private", "__init__", "a/b", "x\0y", "ünï"]
)
def test_unknown(name: str) -> None:
    with pytest.raises(PluginError, match="expected"):
        registry.find("plugin", name, Path())


def test_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "mine.py").write_text(PLUGIN.format(mark=1))
    found = registry.find("plugin", "./mine.py", tmp_path)

    assert issubclass(found, Plugin)
    assert found.mark == 1
    assert found is registry.find("plugin", "./mine.py", tmp_path)
    assert sys.modules[found.__module__].__file__ == str(tmp_path / "mine.py")
    assert not (tmp_path / "__pycache__").exists()


def test_file_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within one tick of the file system's clock, with the same size."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(mark=1))
    first = registry.find("plugin", "./mine.py", tmp_path)
    file.write_text(PLUGIN.format(mark=2))
    second = registry.find("plugin", "./mine.py", tmp_path)

    assert (first.mark, second.mark) == (1, 2)
    assert first.__module__ not in sys.modules


def test_same_file_name_in_two_folders(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "mine.py").write_text(PLUGIN.format(mark=number))
    found = [registry.find("plugin", "./mine.py", tmp_path / str(number)) for number in (1, 2)]

    assert [each.mark for each in found] == [1, 2]
    assert all(each.__module__ in sys.modules for each in found)


def test_file_with_dataclass_and_late_annotations(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from llmshield.hookspecs import Plugin, Settings as Base\n@dataclass\nclass Thing:\n    x: int\n"
        "class Rule(Base):\n    n: int\nclass Mine(Plugin):\n    class Settings(Base):\n        rules: list[Rule] = []\n"
    )

    assert registry.find("plugin", "./mine.py", tmp_path).Settings(rules=[{"n": 1}]).rules[0].n == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.py", "expected ./file.py"),
        ("/etc/mine.py", "expected ./file.py"),
        ("../mine.py", "expected ./file.py"),
        ("./../mine.py", "expected ./file.py"),
        ("./mine", "expected ./file.py"),
        ("./nothing.py", "does not exist"),
    ],
)
def test_files_that_are_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=words):
        registry.find("plugin", name, tmp_path)


def test_failed_import_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "x = 1\nraise ValueError('API_KEY=sk-proj-CANARY1234567890abcdefghijABCDEFGHIJ1234567890abcd')\n"
    )
    before = set(sys.modules)
    with pytest.raises(PluginError, match=r"mine.py:2 can't be imported: ValueError") as raised:
        registry.find("plugin", "./mine.py", tmp_path)

    assert "CANARY" not in str(raised.value)
    assert not [name for name in set(sys.modules) - before if name.startswith("llmshield_file")]


def test_entry_point_of_a_module_and_of_a_class(installed: Any) -> None:
    installed(
        "acme-guards",
        "[llmshield.plugins]\nacme_one = acme_one_module\nacme_two = acme_two_module:Second\n",
        acme_one_module=PLUGIN.format(mark="one"),
        acme_two_module=PLUGIN.format(mark="first") + "class Second(Mine):\n    mark = 'two'\n",
    )

    assert {"acme_one", "acme_two"} <= set(registry.names("plugin"))
    assert [registry.find("plugin", name).mark for name in ("acme_one", "acme_two")] == ["one", "two"]


def test_name_claimed_twice(installed: Any) -> None:
    installed("acme-a", "[llmshield.resolvers]\nenv = x\nboth = x\n")
    installed("acme-b", "[llmshield.resolvers]\nboth = y:z\n")

    with pytest.raises(
        PluginError, match=r"claimed by llmshield\.resolvers\.env and the distribution acme-a \(x\)"
    ):
        registry.find("resolver", "env")
    with pytest.raises(PluginError, match=r"acme-[ab].* and .*acme-[ab].*; uninstall one"):
        registry.find("resolver", "both")


def test_broken_entry_points(installed: Any) -> None:
    installed(
        "acme-broken",
        "[llmshield.plugins]\ngone = acme_gone_module\nwrong = acme_wrong_module:Thing\n",
        acme_wrong_module="class Thing: ...\n",
    )

    with pytest.raises(
        PluginError, match=r"'gone' \(the distribution acme-broken.*can't be imported: ModuleNotFoundError"
    ):
        registry.find("plugin", "gone")
    with pytest.raises(PluginError, match=r"'wrong' is the class Thing, expected a subclass of Plugin"):
        registry.find("plugin", "wrong")
