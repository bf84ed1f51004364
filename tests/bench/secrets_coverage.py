"""How many rules of a gitleaks configuration `use: secrets` has an answer to: strings made from each rule's expression.

    python tests/bench/secrets_coverage.py gitleaks.toml     (config/gitleaks.toml of the release you compare with)

A rule counts as answered when 8 of 10 of its strings are found, with the secret inside the find. The strings are
made blindly: a rule whose expression allows shapes that its issuer never gives out (five characters of a token that has
fifty) or that is about a file's structure counts as missed.
"""

import random
import re
import re._constants as c  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import sys
import tomllib
from pathlib import Path
from typing import Any

import re2

from llmshield_plugins.secrets import Secrets

TRIES = 60
ENOUGH = 0.8
RANDOM = random.Random(3)
CLASSES = {
    c.CATEGORY_DIGIT: "0123456789",
    c.CATEGORY_SPACE: " ",
    c.CATEGORY_WORD: "abcdefghijklmnopqrstuvwxyzABCDEF0123456789",
}


def chars(items: Any) -> list[str]:
    """What a character class may be."""
    found: list[str] = []
    for kind, value in items:
        if kind is c.LITERAL:
            found.append(chr(value))
        elif kind is c.RANGE:
            found += map(chr, range(value[0], value[1] + 1))
        elif kind is c.CATEGORY:
            found += CLASSES.get(value, "abcXYZ789")
    if items[0][0] is c.NEGATE:
        return [char for char in "abcdefXYZ0123456789" if char not in found]
    return found


def made(pattern: Any) -> str:
    """A string that the expression matches, short where it may be."""
    out = []
    for kind, value in pattern:
        if kind is c.LITERAL:
            out.append(chr(value))
        elif kind is c.NOT_LITERAL:
            out.append("x")
        elif kind is c.IN:
            out.append(RANDOM.choice(chars(value)))
        elif kind is c.ANY:
            out.append(RANDOM.choice("abcdef0123"))
        elif kind in (c.MAX_REPEAT, c.MIN_REPEAT):
            least, most, inner = value
            out += [made(inner) for _ in range(least or RANDOM.randint(0, min(1, int(most))))]
        elif kind is c.SUBPATTERN:
            out.append(made(value[3]))
        elif kind is c.BRANCH:
            out.append(made(RANDOM.choice(value[1])))
    return "".join(out)


def share(regex: str, plugin: Secrets) -> float:
    """Which part of a rule's strings is found."""
    expression = re2.compile(regex)
    tree = parser.parse(
        re.sub(r"\(\?[ims-]+\)", "", regex.replace(r"\z", r"\Z")).replace("[[:alnum:]]", "[A-Za-z0-9]")
    )
    asked = found = 0
    for _ in range(TRIES):
        text = f"x: {made(tree)} y"
        match = expression.search(text)
        if match is None:
            continue
        secret = match[1] if expression.groups and match[1] else match[0]
        asked += 1
        spans = plugin._whole(text, "", None)
        found += any(
            secret in text[a:b] or (text[a:b] in secret and len(secret) - (b - a) < 4) for a, b, *_ in spans
        )
    return found / asked if asked else 0.0


def main() -> None:
    plugin = Secrets(Secrets.Settings(min_entropy=0.0))
    rules = [rule for rule in tomllib.loads(Path(sys.argv[1]).read_text())["rules"] if "regex" in rule]
    shares: dict[str, float] = {}
    for rule in rules:
        try:
            shares[rule["id"]] = share(rule["regex"], plugin)
        except (re2.error, re.error, IndexError):
            shares[rule["id"]] = 0.0
    answered = [name for name, part in shares.items() if part >= ENOUGH]
    print(f"{len(answered)} of {len(shares)} rules answered")
    for name, part in sorted(shares.items()):
        if name not in answered:
            print(f"  {name:<40} {part:4.0%}")


if __name__ == "__main__":
    main()
