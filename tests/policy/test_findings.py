"""How a finding is told: one place, one sentence, one hint."""

from __future__ import annotations

import pytest

from llmshield.policy.findings import CODES, Finding, did_you_mean, write_path


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("injecton", ["injection", "pii"], "did you mean 'injection'?"),
        ("EMAIL", ["EMAIL_ADDRESS", "US_SSN"], "did you mean 'EMAIL_ADDRESS'?"),
        ("US_", ["US_SOCIAL_SECURITY", "US_ITIN_NUMBER"], ""),
        ("Monitor", ["monitor"], "did you mean 'monitor'?"),
        ("zzz", ["monitor"], ""),
        ("", ["a"], ""),
        ("x" * 100_000, ["x"], ""),
    ],
)
def test_did_you_mean(word: str, known: list[str], expected: str) -> None:
    assert expected == did_you_mean(word, known)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), ""),
        (("plugins", 3, "entities", "EMAIL"), "plugins[3].entities.EMAIL"),
        (("tenants", "a.b", "keys", 0), "tenants['a.b'].keys[0]"),
        (("", "x"), "[''].x"),
    ],
)
def test_paths(path: tuple[str | int, ...], expected: str) -> None:
    assert expected == write_path(path)


def test_as_text_and_as_data() -> None:
    finding = Finding("LS201", "unknown key 'x'", "p.yaml", 3, 5, "server.x", "  x: 1", "did you mean 'y'?")

    assert (
        str(finding)
        == "p.yaml:3:5: error LS201: server.x: unknown key 'x'\n  x: 1\n  hint: did you mean 'y'?"
    )
    assert finding.as_dict()["severity"] == "error"
    assert {"code", "severity", "file", "line", "column", "path", "message", "source", "hint"} == set(
        finding.as_dict()
    )


def test_codes_are_told_apart() -> None:
    assert list(CODES) == sorted(CODES)
    assert all(
        code.startswith("LS") and severity in ("error", "warning") for code, (severity, _) in CODES.items()
    )
    assert len({meaning for _, meaning in CODES.values()}) == len(CODES)
