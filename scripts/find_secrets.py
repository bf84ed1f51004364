"""Finds credentials in the project's own files, by the rules of `use: secrets`: no network, no other tool.

python scripts/find_secrets.py              every tracked file
python scripts/find_secrets.py FILE...      these (what pre-commit gives)
python scripts/find_secrets.py --allow      put what it finds on the list, once you have looked: made-up keys only

Exit status 1 and a line for each find that `scripts/known_secrets.txt` does not name. That list has one line for each
made-up key that a test or a page shows: the first 16 hexadecimal digits of the SHA-256 of path and value. A new key is a
find even in a file that shows others. Values are never printed. In tests and pages, where passwords of Ada and Bob
are everywhere, only keys that an issuer made recognisable, private keys and JWTs count. A key with `abcdef` or
`123456` in it was typed by hand, and counts nowhere.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from llmshield.secrets_patterns import GROUPS, entropy, find_credentials

ROOT = Path(__file__).resolve().parent.parent
KNOWN = Path(__file__).resolve().with_name("known_secrets.txt")

_ANNOUNCED = frozenset((*GROUPS["announced"], *GROUPS["login"]))
_NO_TEXT = frozenset({".png", ".ico", ".gz", ".onnx", ".npz"})
_DRAWN = 1.5
"""Bits for each character below which a key is drawn (`AKIAXXXXXXXX`), not made."""


class Find(NamedTuple):
    """One credential: where it stands, which rule found it, and its line in the list."""

    path: str
    line: int
    rule: str
    digest: str


def tracked() -> list[str]:
    """The files that git has. Raises: OSError without git, CalledProcessError outside of a repository."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    return [name for name in done.stdout.split("\0") if name]


def found_in(name: str, text: str) -> Iterator[Find]:
    """Every credential of one file; `name` is its path from the root."""
    lenient = name.startswith(("tests/", "docs/"))
    for item in find_credentials(text):
        value = text[item.start : item.end]
        if entropy(value) < _DRAWN or _counted(value) or (lenient and item.rule in _ANNOUNCED):
            continue
        digest = hashlib.sha256(f"{name}\0{value}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        yield Find(name, text.count("\n", 0, item.start) + 1, item.rule, digest)


def _counted(value: str) -> bool:
    """Whether somebody typed it: six letters or digits in a row (`abcdef`, `123456`), as no random key of 64 has."""
    steps = [ord(after) - ord(before) for before, after in pairwise(value)]
    return any(steps[at : at + 5] == [1] * 5 for at in range(len(steps) - 4))


def finds(names: Iterable[str]) -> list[Find]:
    """The credentials of these files, paths from the root."""
    out: list[Find] = []
    for name in names:
        path = ROOT / name
        if path.suffix not in _NO_TEXT and path.is_file() and path != KNOWN:
            out += found_in(name, path.read_text(encoding="utf-8", errors="replace"))
    return out


def known() -> set[str]:
    """What the list names."""
    lines = KNOWN.read_text(encoding="ascii").splitlines() if KNOWN.exists() else []
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def main(words: list[str]) -> int:
    names = [word for word in words if not word.startswith("-")]
    paths = [Path(name).resolve().relative_to(ROOT).as_posix() for name in names] if names else tracked()
    found = finds(paths)
    if "--allow" in words:
        lines = sorted({f"{find.digest} {find.path} {find.rule}" for find in found})
        KNOWN.write_text(
            "# made by scripts/find_secrets.py --allow\n" + "".join(f"{line}\n" for line in lines)
        )
        return 0
    listed = known()
    new = [find for find in found if find.digest not in listed]
    for find in new:
        sys.stdout.write(f"{find.path}:{find.line}: looks like a credential ({find.rule})\n")
    if new:
        sys.stdout.write("Take it out and revoke it. Made up? python scripts/find_secrets.py --allow\n")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
