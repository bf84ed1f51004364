"""What is released: a wheel with everything that runs, the same bytes whenever it is built."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Build wheel and sdist into a new folder; with the tools of this environment, without the network."""

    def run():
        folder = tmp_path_factory.mktemp("dist")
        uv = Path(sys.executable).with_name("uv")
        subprocess.run(
            [
                uv,
                "build",
                "--no-build-isolation",
                "--offline",
                "-q",
                "--python",
                sys.executable,
                "--out-dir",
                folder,
            ],
            cwd=ROOT,
            check=True,
        )
        (wheel,) = folder.glob("*.whl")
        (sdist,) = folder.glob("*.tar.gz")
        return wheel, sdist

    return run


@pytest.fixture(scope="module")
def built(build):
    return build()


def test_the_wheel_holds_all_that_runs_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0]).namelist())

    for room, folder in (("llmshield", "llmshield"), ("llmshield_plugins", "plugins/llmshield_plugins"),
                         ("llmshield_addons", "addons/llmshield_addons")):  # fmt: skip
        sources = {
            f"{room}/{path.relative_to(ROOT / folder).as_posix()}"
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert sources - names == set()
        assert f"{room}/py.typed" in names
    policies = {f"llmshield/_policies/{path.name}" for path in (ROOT / "policies").glob("*.yaml")}
    assert policies - names == set()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "llmshield",
        "llmshield_plugins",
        "llmshield_addons",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".db", ".pyc"))]


def test_the_sdist_builds_the_same_wheel(built):
    """`uv build` makes the wheel from the sdist, so what it lacks the wheel would lack."""
    with tarfile.open(built[1]) as sdist:
        names = {name.split("/", 1)[-1] for name in sdist.getnames()}

    assert {"pyproject.toml", "README.md", "LICENSE", "llmshield/__init__.py"} <= names
    assert not [name for name in names if name.startswith((".git/", ".venv")) or "node_modules" in name]
    assert not [name for name in names if "__pycache__" in name or name.endswith((".db", ".pyc"))]


def test_the_sdist_holds_what_its_readers_and_its_tests_need(built):
    """Documentation, and all that `make test` takes to run in what was unpacked."""
    with tarfile.open(built[1]) as sdist:
        names = {name.split("/", 1)[-1] for name in sdist.getnames() if name.count("/")}
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not in a git checkout")
    # A file that somebody has just deleted, or has not committed yet, is nobody's fault here.
    expected = {name for name in tracked.stdout.split("\0") if name and (ROOT / name).is_file()}

    assert {
        "docs/README.md",
        "CONTRIBUTING.md",
        "tests/conftest.py",
        "scripts/gen_docs.py",
        "Makefile",
    } <= names
    assert expected - names - {".gitignore"} == set()


def test_building_twice_gives_the_same_bytes(build, built):
    def digests(paths):
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]

    assert digests(build()) == digests(built)


def test_the_wheel_runs_outside_of_the_tree(built, tmp_path):
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import llmshield, llmshield_plugins, pathlib; from llmshield.policy import load\n"
        "here = pathlib.Path(llmshield.__file__).parent\n"
        "for path in sorted(here.joinpath('_policies').glob('*.yaml')): print(here, load(path).hash)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    lines = result.stdout.splitlines()
    assert len(lines) == len(list((ROOT / "policies").glob("*.yaml")))
    assert all(line.startswith(str(tmp_path)) for line in lines)
