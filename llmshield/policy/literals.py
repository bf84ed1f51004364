"""Literal secrets in a policy, wherever they stand: production refuses them, elsewhere only those of providers are.

Two things give one away: the name of its key (`token:`, `password:`), and its own shape (a provider's key, a private
key, a password in an address).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmshield.policy.findings import Path
from llmshield.policy.masking import REFERENCE, is_secret_key
from llmshield.policy.report import Report
from llmshield.secrets_patterns import find_secrets

_HINT = "put it into an environment variable and write env://NAME, or seal it with `llmshield vault seal`"
_HASHED = "sha256:"
_WORDS = {
    "PRIVATE_KEY": "private key",
    "URL_WITH_CREDENTIALS": "password in an address",
}
_STORE_HINT = "put the whole address into an environment variable and write `store: env://NAME`"


def check(tree: dict[str, Any], report: Report) -> None:
    """Report every literal secret in the policy's plain data."""
    for path, value in _texts(tree, ()):
        named = [step for step in path if isinstance(step, str)][-1:]
        if value.startswith(_HASHED) or not value:
            continue
        if path[0] == "providers" and path[2:] == ("api_key",):
            continue  # no literal is taken there anywhere
        if named and is_secret_key(named[0]) and not REFERENCE.match(value):
            what = "under a secret's name"
        elif not value.startswith("enc://") and (found := find_secrets(value)):
            what = _WORDS.get(found[0][2], "that looks like a key")
        else:
            continue
        hint = _STORE_HINT if path == ("server", "store") else _HINT
        report.add("LS309", path, f"found a literal {what}, expected a reference: this is production", hint)


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Every text with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
