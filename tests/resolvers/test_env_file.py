"""References to secrets: what they give, what is refused, and that no value is ever told."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from llmshield import redact, resolvers
from llmshield.errors import SecretError
from llmshield.resolvers import SecretRef

CANARY = "CANARY-0f9e8d7c"


@pytest.fixture(autouse=True)
def _forget() -> object:
    yield
    redact.forget(CANARY)


@pytest.mark.parametrize(
    ("content", "ref"),
    [
        (CANARY, "file://key"),
        (f"\n  {CANARY}\r\n", "file://key"),
        (f"\ufeff{CANARY}", "file://key"),
        (f"A=1\nKEY={CANARY}\nB=2", "file://key#KEY"),
        (f"export KEY = '{CANARY}'", "file://key#KEY"),
        (f'KEY="{CANARY}"\n', "file://key#KEY"),
        (f"KEY={CANARY} # a comment", "file://key#KEY"),
        (f"KEY=old\nKEY={CANARY}", "file://key#KEY"),
        (f"KEY='{CANARY}' # quoted, and a comment", "file://key#KEY"),
        (f'KEY="{CANARY}"# at once', "file://key#KEY"),
        (f'KEY="\\{CANARY}"', "file://key#KEY"),
        (f"\texport\tKEY={CANARY}\t# tabs", "file://key#KEY"),
        (f"# KEY=not this\nOTHER=KEY=x\nKEY={CANARY}", "file://key#KEY"),
    ],
)
def test_file(content: str, ref: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(content)

    assert resolvers.resolve(ref, tmp_path) == CANARY
    assert resolvers.resolve(ref.replace("file://", f"file://{tmp_path}/"), Path("/nowhere")) == CANARY


def test_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {CANARY}\n")
    ref = SecretRef.parse("env://SOME_KEY")
    assert ref is not None

    assert resolvers.resolve(ref, Path()) == CANARY
    assert resolvers.warn(ref, Path()) == ""


def test_a_resolved_secret_is_hidden_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", CANARY)
    resolvers.resolve("env://SOME_KEY", Path())

    assert CANARY not in redact.redact(f"the provider says {CANARY} is wrong")


@pytest.mark.parametrize(
    ("content", "ref", "words"),
    [
        (b"", "file://key", "is empty"),
        (b" \n", "file://key", "is empty"),
        (f"{CANARY}\n{CANARY}".encode(), "file://key", "several lines"),
        (f"{CANARY} x".encode(), "file://key", "blanks"),
        (f"{CANARY}\0".encode(), "file://key", "blanks"),
        (f"{CANARY}é".encode(), "file://key", "ASCII"),
        (CANARY.encode() + b"\xff", "file://key", "no UTF-8"),
        (CANARY.encode() * 2_000, "file://key", "16384 characters"),
        (CANARY.encode() * 10_000, "file://key", "larger than"),
        (f"KEY={CANARY}".encode(), "file://key#OTHER", "no line OTHER="),
        (b"KEY=", "file://key#KEY", "is empty"),
        (b"KEY= # a comment", "file://key#KEY", "is empty"),
        (b'KEY=""', "file://key#KEY", "is empty"),
        (b'KEY="open', "file://key#KEY", "line 1 is not NAME=value"),
        (b"KEY='a' b", "file://key#KEY", "line 1 is not NAME=value"),
        (b"x", "file://missing", "No such file"),
        (b"x", "file://.", "Is a directory"),
        (b"x", "env://NO_SUCH_VARIABLE", "not set"),
        (b"x", "nope://x", "not known"),
        (b"x", "_value://x", "reference"),
        (b"x", "v-alue://x", "not known"),
        (b"x", CANARY, "found a literal"),
        (b"x", f"{CANARY} ://x", "found a literal"),
    ],
)
def test_refused(
    content: bytes, ref: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(SecretError, match=words) as raised:
        resolvers.resolve(ref, tmp_path)

    assert "CANARY" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_open_file(mode: int, warns: bool, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(CANARY)
    key.chmod(mode)

    assert warns is bool(resolvers.warn("file://key#NAME", tmp_path))
    assert resolvers.warn("file://missing", tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("env://A", SecretRef("env", "A")),
        ("file:///a/b#c", SecretRef("file", "/a/b#c")),
        ("enc://v1.openai.k1.…", SecretRef("enc", "v1.openai.k1.…")),
        ("ENV://A", None),
        ("env:/A", None),
        ("env://", None),
        ("://A", None),
        ("env://A B", None),
        ("env://A\0", None),
        ("file://a\u2028b", None),
        ("sk-123", None),
        ("1x://A", None),
    ],
)
def test_references(text: str, expected: SecretRef | None) -> None:
    assert expected == SecretRef.parse(text)
    assert expected is None or str(expected) == text
