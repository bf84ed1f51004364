"""Rules of the house that no linter knows: every file has its tests, names point down, files stay readable."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = {"llmshield": ROOT / "llmshield", "llmshield_plugins": ROOT / "plugins" / "llmshield_plugins",
         "llmshield_addons": ROOT / "addons" / "llmshield_addons"}  # fmt: skip
TESTS = ROOT / "tests"

ELSEWHERE = {
    "llmshield/__init__.py": "a version and a sentence",
    "llmshield/__main__.py": "calls cli.main",
    "llmshield/mounts/__init__.py": "empty",
    "llmshield/call.py": "shapes; every test of a dialect or plugin uses them",
    "llmshield/conversation.py": "shapes; tests/contracts/test_translators.py takes them through every dialect",
    "llmshield/asking.py": "a part of the engine; tests/test_engine.py",
    "llmshield/passing.py": "a part of the engine; tests/test_engine.py, tests/mounts/test_gateway.py",
    "llmshield/relay.py": "a part of the engine; tests/test_engine.py, tests/e2e",
    "llmshield/replies.py": "a part of the engine; tests/test_engine.py, tests/e2e",
    "llmshield/runtime.py": "puts rooms together; tests/mounts and tests/e2e run it",
    "llmshield/cli/egress.py": "finds its commands, and imports the one that was typed; tests/cli/_egress",
    "llmshield/cli/_egress/__init__.py": "a sentence",
    "llmshield/cli/_egress/_serving.py": "addresses and the loop; tests/cli/_egress",
    "llmshield/policy/intercepting.py": "tests/policy/test_egress.py",
    "llmshield/cli/schema.py": "prints a schema; tests/policy/test_schema.py",
    "llmshield/cli/simulate.py": "serves the simulator; tests/cli/test_demo.py and tests/simulator",
    "llmshield/mounts/cors.py": "tests/mounts/test_gateway.py",
    "llmshield/errors.py": "shapes; tests/test_redact.py covers what its constructors do",
    "llmshield/hookspecs.py": "the contract; tests/test_chain.py validates plugins against it",
    "llmshield/process_figures.py": "tests/test_metrics.py",
    "llmshield/verdicts.py": "shapes; tests/test_chain.py",
    "llmshield/secrets_shapes.py": "tables; tests/test_secrets_patterns.py goes through every row",
    "plugins/llmshield_plugins/pii/name_words.py": "words; tests/plugins/pii/test_pii_names.py",
    "llmshield/clock.py": "three lines over the standard library; tests/test_testing.py holds it still",
}
"""Source files without a test file of their own, and why."""

COMPANIONS = {
    "anyio": "starlette",
    "azure-core": "azure-identity",
    "botocore": "boto3",
    "google-api-core": "google-cloud-secret-manager",  # `google` is a namespace that several distributions share
    "google-auth": "google-cloud-secret-manager",
    "httpx": "google-genai",
    "google-genai": "google-cloud-secret-manager",
    "googleapis-common-protos": "google-cloud-secret-manager",
    "grpc-google-iam-v1": "google-cloud-secret-manager",
    "grpcio": "google-cloud-secret-manager",
    "langchain-core": "langchain-openai",
    "protobuf": "google-cloud-secret-manager",
    "numpy": "onnxruntime",
    "pydantic-core": "pydantic",
    "regex": "presidio-analyzer",
    "requests": "google-cloud-secret-manager",  # its REST transport
    "typing-extensions": "pydantic",
    "websockets": "google-genai",
    "yarl": "aiohttp",
}
"""Distributions that are a part of another one's interface, and of whose."""

ROOMS = {
    "llmshield/policy": "one table of findings goes through every section",
    "llmshield/stores": "one suite runs over every store",
    "llmshield/transcripts/places": "one suite runs over every place",
}
"""Rooms whose tests are about the room, not about single files: any test file of the folder counts."""

LONGEST = 400
LONGER = {
    "llmshield/ledger.py": "the steps of the book, each for stores that wait and for stores that do not",
    "llmshield/stores/__init__.py": "the contract of the room, step by step",
    "llmshield/stores/_redis_scripts.py": "one script per step",
    "llmshield/prices.py": "one list's prices in one meaning: lookup, quote, cost",
    "llmshield/stores/redis.py": "one store, method by method",
    "llmshield/call.py": "the shapes of one call, in one place",
}
"""Files above 400 lines (blank lines and comments included), and why they are one subject."""


def sources():
    """Every source file, as its path from the repository's root."""
    return [
        path.relative_to(ROOT).as_posix() for root in ROOTS.values() for path in sorted(root.rglob("*.py"))
    ]


def has_test(source):
    """`llmshield/policy/units.py` -> `tests/policy/test_units.py`, also `test_policy_units.py`, `test_units_more.py`.

    A folder of its name is as good: `tests/policy/units/`. A folder's `__init__.py` and private modules are tested
    through the room: any test file of it counts.
    """
    parts = Path(source).with_suffix("").parts
    room = () if parts[0] == "llmshield" else (parts[0],)
    *folders, name = parts[1:] if not room else parts[2:]
    if any(TESTS.joinpath(*room, *folders, name).glob("test_*.py")):
        return True
    stems = {path.stem for path in TESTS.joinpath(*room, *folders).glob("test_*.py")}
    if parts[0] + "/" + "/".join(folders) in ROOMS:
        return bool(stems)
    if room and folders:  # a plugin that is a folder is one subject
        above = {path.stem for path in TESTS.joinpath(*room).glob("test_*.py")}
        return bool(stems) or f"test_{folders[0]}" in above
    if name.startswith("_"):
        above = {path.stem for path in TESTS.joinpath(*room, *folders[:-1]).glob("test_*.py")}
        return not folders or bool(stems) or f"test_{folders[-1]}" in above
    return any(stem.endswith(f"_{name}") or stem.startswith(f"test_{name}_") for stem in stems)


@pytest.mark.parametrize("source", [source for source in sources() if source not in ELSEWHERE])
def test_every_source_file_has_its_test_file(source):
    assert has_test(source), f"write a test for {source}, or say in ELSEWHERE why it has none"


def test_the_list_of_exceptions_is_true():
    missing = [source for source in {*ELSEWHERE, *LONGER, *ROOMS} if not (ROOT / source).exists()]

    assert missing == []


@functools.cache
def statements(path):
    """The file's imports and classes, wherever they stand: statements alone are looked through, no expressions."""
    found, left = [], [ast.parse(path.read_text(encoding="utf-8"))]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef):
            found.append(node)
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            if isinstance(inside := getattr(node, part, None), list):
                left += inside
    return found


def imports(path):
    """(module, imported names) of every import in a file."""
    for node in statements(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ()
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module, tuple(alias.name for alias in node.names)


def all_python():
    for folder in (*ROOTS.values(), TESTS):
        yield from sorted(folder.rglob("*.py"))


def test_nobody_imports_what_only_a_development_tree_has():
    """`import plugins` and `import tests` succeed here and nowhere else."""
    found = [
        (path.relative_to(ROOT).as_posix(), module)
        for path in all_python()
        for module, _ in imports(path)
        if module.split(".")[0] in {"plugins", "addons", "tests", "policies"}
    ]

    assert found == []


def test_imports_are_absolute():
    """Save inside a plugin that is a folder: it may be copied and renamed as a whole."""
    found = [
        path.relative_to(ROOT).as_posix()
        for room, folder in ROOTS.items()
        for path in folder.rglob("*.py")
        for node in statements(path)
        if isinstance(node, ast.ImportFrom) and node.level > (1 if room == "llmshield_plugins" else 0)
    ]

    assert found == []


def test_plugins_use_public_names_only():
    """A plugin is written against what authors outside may use too: no `_name`, no `_module` of the core."""
    found = [
        (path.name, module, name)
        for root in ("llmshield_plugins", "llmshield_addons")
        for path in ROOTS[root].rglob("*.py")
        for module, names in imports(path)
        if module.split(".")[0] == "llmshield"
        for name in (*module.split("."), *names)
        if name.startswith("_") and not name.startswith("__")
    ]

    assert found == []


@pytest.mark.parametrize("source", sources())
def test_files_stay_readable(source):
    lines = len((ROOT / source).read_text(encoding="utf-8").splitlines())

    assert lines <= (700 if source in LONGER else LONGEST), (
        "look for a second subject in it (LONGER needs a reason)"
    )


@pytest.mark.parametrize("source", sources())
def test_every_file_says_what_it_is_for(source):
    text = (ROOT / source).read_text(encoding="utf-8")

    assert not text.strip() or ast.get_docstring(ast.parse(text)), "the first lines say what a file is for"


def test_defaults_of_dataclasses_can_be_hashed_on_every_python():
    """Before 3.12 a mapping proxy can't be; a dataclass with such a default fails at its import."""
    found = [
        (path.relative_to(ROOT).as_posix(), node.lineno)
        for root in ROOTS.values()
        for path in root.rglob("*.py")
        for maker in statements(path)
        if isinstance(maker, ast.ClassDef)
        and any("dataclass" in ast.dump(each) for each in maker.decorator_list)
        for node in maker.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "MappingProxyType"
    ]

    assert found == [], "use field(default_factory=...)"


def test_tests_are_no_packages():
    """They are imported by path (`--import-mode=importlib`); an `__init__.py` would make `import tests` work."""
    assert list(TESTS.rglob("__init__.py")) == []


def pages():
    """Markdown that readers see."""
    return [
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))

    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_the_index_of_the_docs_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    docs = ROOT / "docs"

    missing = [
        name
        for name in (path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
        if name != "README.md" and f"({name})" not in index
    ]
    assert missing == []


def test_nothing_of_one_machine_is_in_the_tree():
    """No home folders, no temporary files, no index hosts: a clone elsewhere must be the same project."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("no git here")
    marks = ["/ro" "ot/", "/wo" "rk/", "files.python" "hosted.org", "registry.npm" "js.org", "/ho" "me/"]  # fmt: skip
    found = []
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".db", ".png"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [(name, mark) for mark in marks if mark in text]

    assert found == []


def test_locks_hold_what_the_project_asks_for():
    """Every direct requirement is pinned with hashes, and no index host is named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["pii"]]
    for lock in ("dev", "demo"):
        text = (ROOT / "requirements" / f"{lock}.lock").read_text(encoding="utf-8")
        pinned = {line.split("==")[0] for line in text.splitlines() if line[:1].isalnum()}
        for requirement in wanted if lock == "dev" else project["project"]["dependencies"]:
            name = requirement.split(";")[0].split("[")[0]
            for mark in "<>=! ":
                name = name.split(mark)[0]
            assert name.lower().replace("_", "-").replace(".", "-") in pinned, (
                f"{name} is not in {lock}.lock; run `make lock`"
            )
        assert "://" not in text
        assert text.count("--hash=sha256:") > len(pinned)


def test_mitmproxy_has_a_lock_of_its_own():
    """It fits into no environment beside the others; users who ask for the extra get what the tests ran with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (extra,) = project["project"]["optional-dependencies"]["egress"]
    (wanted,) = project["dependency-groups"]["egress"]
    lock = (ROOT / "requirements" / "egress.lock").read_text(encoding="utf-8")
    pinned = re.findall(r"(?m)^([a-z0-9-]+)==", lock)

    assert extra.partition(";")[0].strip() == wanted
    assert "mitmproxy" in pinned
    assert lock.count("--hash=sha256:") > len(pinned)
    assert "://" not in lock
    assert "mitmproxy" not in (ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")


def required(*groups):
    """Names of distributions that these groups of requirements ask for, normalised."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [*project["project"]["dependencies"]]
    for group in groups:
        asked += project["project"]["optional-dependencies"].get(group, [])
        asked += [r for r in project["dependency-groups"].get(group, []) if isinstance(r, str)]
    names = [re.match(r"[A-Za-z0-9._-]+", requirement)[0] for requirement in asked]
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


givers_of_imports = functools.cache(importlib.metadata.packages_distributions)


def third_party(folder):
    """The distributions that give an import -> a file that has it, for every import that is not ours or Python's.

    More than one share a namespace such as `google`.
    """
    distributions = givers_of_imports()
    found = {}
    for path in folder.rglob("*.py"):
        for module, _ in imports(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top in ROOTS or top not in distributions:
                continue
            givers = frozenset(re.sub(r"[-_.]+", "-", name).lower() for name in distributions[top])
            found[givers] = path.relative_to(ROOT).as_posix()
    return found


@pytest.mark.parametrize(
    ("room", "groups"),
    [
        # the store `redis`, the demo's SDKs, and the clouds that keys come from
        (ROOTS["llmshield"], ("redis", "demo", "aws", "azure", "gcp", "keyring")),
        (ROOTS["llmshield_plugins"], ("pii", "onnx")),
        (ROOTS["llmshield_addons"], ("egress",)),
        (TESTS, ("pii", "redis", "demo", "dev", "aws", "azure", "gcp", "keyring", "onnx")),
    ],
    ids=["core", "plugins", "addons", "tests"],
)
def test_what_is_imported_is_asked_for(room, groups):
    """Not what happens to be here because something else needs it."""
    asked = required(*groups)
    asked |= {name for name, parent in COMPANIONS.items() if parent in asked}
    borrowed = {" ".join(givers): path for givers, path in third_party(room).items() if not givers & asked}

    assert borrowed == {}


def test_import_contracts_name_every_room():
    """Exhaustive contracts are what makes a new module take its floor; `make lint` runs them."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]

    assert tool["contracts"][0]["exhaustive"] is True
    assert set(tool["root_packages"]) == set(ROOTS)


def test_the_core_loads_no_plugin_and_no_heavy_thing():
    """Importing the package, and reading `--version`, must stay cheap wherever it is installed."""
    code = "import llmshield, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    heavy = {"aiohttp", "pydantic", "presidio_analyzer", "spacy", "mitmproxy", "numpy", "typer", "uvicorn"}
    assert not heavy & set(loaded)
    assert "llmshield_plugins" not in loaded
