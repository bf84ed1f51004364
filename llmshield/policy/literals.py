"""Literal secrets in a policy, wherever they stand: production refuses them, elsewhere only those of providers are.

Two things give one away: the name of its key (`token:`, `password:`), and its own shape (a provider's key, a private
key, a password in an address).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llmshield.policy.findings import Path
from llmshield.policy.masking import REFERENCE, is_secret_key
from llmshield.policy.report import Report
from llmshield.secrets_patterns import find_secrets

_HINT = "put it into an environment variable and write env://NAME, or seal it with `llmshield vault seal`"
_MATCHED = frozenset({"allow", "deny", "allow_patterns"})
_ALWAYS = re.compile(r"(?i)(api_?key|secret|password|passwd|authorization)$")
_WORD = re.compile(r"[a-z_]{1,16}|[0-9.]+ ?[A-Za-z%/]{0,16}")
"""A setting's word, a duration, an amount."""
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
        if len(path) > 1 and path[-2] in _MATCHED and isinstance(path[-1], int):
            continue  # texts that a guard looks for, such as the example keys of a manual
        if named and _is_secret(named[0], value):
            what = "under a secret's name"
        elif not value.startswith("enc://") and (found := find_secrets(value)):
            what = _WORDS.get(found[0][2], "that looks like a key")
        else:
            continue
        hint = _STORE_HINT if path == ("server", "store") else _HINT
        report.add("LS309", path, f"found a literal {what}, expected a reference: this is production", hint)


def _is_secret(name: str, value: str) -> bool:
    """Whether this key's name makes a secret of its value. Some names are others' words too: `first_token: 20s`,
    `private_key: block`."""
    if not is_secret_key(name) or REFERENCE.match(value):
        return False
    return _ALWAYS.search(name) is not None or _WORD.fullmatch(value) is None


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
