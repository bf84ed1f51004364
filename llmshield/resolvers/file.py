"""`file://path` is a file that holds one key; `file://path#NAME` is the line `NAME=key` of a .env file.

`file://keys/openai` is relative to the policy's folder, `file:///run/secrets/openai` absolute.
"""

from __future__ import annotations

import re
from pathlib import Path

from llmshield.errors import SecretError
from llmshield.key_files import danger
from llmshield.resolvers._value import clean

MAX_BYTES = 65_536


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key in the file.

    Raises: SecretError when the file can't be read, is no short text, lacks the name, or holds no key.
    """
    ref = f"file://{rest}"
    path, name = _parts(rest, base)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SecretError(f"{ref} can't be read: {error.strerror}; expected a file with one key") from None
    if len(data) > MAX_BYTES:
        raise SecretError(f"{ref} is larger than {MAX_BYTES} bytes; expected a file with one key")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SecretError(f"{ref} is no UTF-8 text; expected a file with one key") from None
    return clean(_variable(text, name, ref) if name else text, ref)


def warn(rest: str, base: Path) -> str:
    """Whether every user of this machine may read or change the file, or it is a link to another one; else ""."""
    return danger(_parts(rest, base)[0])


def _parts(rest: str, base: Path) -> tuple[Path, str]:
    path, _, name = rest.partition("#")
    return base / path, name


_NAME = re.compile(r"\s*(?:export\s+)?([^\s=#]+)\s*=\s*")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
"""In double quotes a backslash takes the next character as it is."""
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?")


def _variable(text: str, name: str, ref: str) -> str:
    """The value of `NAME=value`, `export NAME=value`, `NAME="value"` or `NAME='value'`; the last such line counts."""
    value: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        found = _NAME.match(line)
        if found is None or found[1] != name:
            continue
        rest = line[found.end() :]
        if rest[:1] not in ('"', "'"):
            value = re.split(r"(?:^|\s)#", rest, maxsplit=1)[0].strip()
            continue
        quoted = _DOUBLE.fullmatch(rest.strip()) or _SINGLE.fullmatch(rest.strip())
        if quoted is None:
            raise SecretError(
                f"{ref}: line {number} is not NAME=value: a quote is open, or something stands behind it"
            )
        value = re.sub(r"\\(.)", r"\1", quoted[1]) if rest.startswith('"') else quoted[1]
    if value is None:
        raise SecretError(f"{ref}: the file has no line {name}=...; add it")
    return value
