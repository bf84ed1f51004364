"""The grammar that training texts come from: the same texts every time, and all of it is used."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture(scope="module")
def grammar() -> ModuleType:
    spec = importlib.util.spec_from_file_location("injection_grammar", SCRIPTS / "injection_grammar.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["attacks", "honest"])
def test_every_set_gives_texts_and_the_same_ones_again(grammar: Any, name: str) -> None:
    read = grammar.Grammar(grammar.FOLDER / f"{name}.txt")
    made = list(read.texts(1))

    assert made == list(grammar.Grammar(grammar.FOLDER / f"{name}.txt").texts(1))
    assert made != list(read.texts(2))
    assert {part for part, _ in made} == set(read.sets)
    assert len({text for _, text in made}) == len(made) > 3_000
    for text in (text for _, text in made):
        assert text
        assert not any(f"<{phrases}>" in text.lower() for phrases in read.lists if phrases != "rules"), text


def test_patterns(grammar: Any, tmp_path: Path) -> None:
    file = tmp_path / "g.txt"
    file.write_text("# a remark\n@who\nAnn\nBob\n= greetings 20\nhello <who>(!|, (you|me)|)\\(x\\)\\n|<b>\n")
    texts = [text for _, text in grammar.Grammar(file).texts(1)]

    assert {text.lower() for text in texts} <= {
        f"hello {who}{end}(x)\n|<b>" for who in ("ann", "bob") for end in ("!", ", you", ", me", "")
    }
    assert len(texts) > 4
