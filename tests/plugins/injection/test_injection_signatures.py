"""The signatures as data: each finds its example, none its counter-example."""

from collections import Counter

import pytest
import re2

from llmshield_plugins.injection import signatures
from llmshield_plugins.injection.judgement import Rules
from llmshield_plugins.injection.scan import Scanner
from llmshield_plugins.injection.signatures import FAMILIES, builtin, expand

ALL = builtin()


@pytest.fixture(scope="module")
def low() -> Scanner:
    return Scanner(Rules(block_at=0.01, flag_at=0.01, weights={"learned": 0.0}))


@pytest.mark.parametrize("signature", ALL, ids=lambda s: s.id)
def test_example_and_counter_example(low: Scanner, signature: signatures.Signature) -> None:
    assert signature.id in {hit.signature for hit in low.scan(signature.example).hits}
    assert low.scan(signature.counter_example).hits == ()


def test_the_set_as_a_whole() -> None:
    assert [name for name, count in Counter(s.id for s in ALL).items() if count > 1] == []
    assert {s.family for s in ALL} == set(FAMILIES)
    assert len({s.language for s in ALL}) >= 30
    assert all(0 < s.score <= s.tool_score <= 1 for s in ALL)
    assert 150 <= len(ALL) <= 400


def test_the_compiled_file_is_fresh() -> None:
    """After a change to the YAML files: `python -m llmshield_plugins.injection`."""
    stored = signatures.orjson.loads(signatures._COMPILED.read_bytes())

    assert signatures._digest() == stored["digest"]
    assert signatures._from_yaml() == stored["signatures"]


def test_a_stale_compiled_file_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(signatures, "_digest", lambda: "another")
    monkeypatch.setattr(signatures, "_from_yaml", list)
    builtin.cache_clear()
    try:
        assert builtin() == ()
    finally:
        builtin.cache_clear()


WORDS = {"rule": "rules?|orders", "small": "all|the"}


@pytest.mark.parametrize(
    ("written", "plain", "squeezed"),
    [
        (r"\bignore {rule}\b", ["ignore rules", "Ignore,  the"[:0] + "ignore--orders"], "ignorerules"),
        (r"\bignore {fill2}{rule}", ["ignore all the rules", "ignore rule"], "ignoreallrules"),
        (r"no {~2}(?:{rule})", ["no big bad rules"], "nobigbadrules"),
        (r"say ?hello", ["say hello", "sayhello"], "sayhello"),
    ],
)
def test_expansion(written: str, plain: list[str], squeezed: str) -> None:
    exact = re2.compile(expand(written.replace("{rule}", "(?:{rule})"), WORDS))
    glued = re2.compile(expand(written.replace("{rule}", "(?:{rule})"), WORDS, squeezed=True))

    assert [text for text in plain if not exact.search(text)] == []
    assert glued.search(squeezed) is not None
    assert exact.search("nothing of the kind") is None


def test_letters_are_folded_as_texts_are() -> None:
    assert expand("ё й é", {}) == expand("е и e", {})
