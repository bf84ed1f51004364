"""`enc://v1.NAME.KEY.SEALED`: a key that stands sealed in the policy; `enc://gAAAA…`: a Fernet token; and
`enc://path#NAME`: the entry of that name in an encrypted key file (relative to the policy's folder).

`llmshield vault seal` makes them; LLMSHIELD_SECRET_KEY opens them. A key sealed for one provider is good for no other;
an entry of a key file is good for whichever provider names it.
"""

from __future__ import annotations

from pathlib import Path

from llmshield import key_files
from llmshield.errors import SecretError
from llmshield.resolvers._ring import ring
from llmshield.resolvers._value import clean
from llmshield.sealing import FERNET, read_reference


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key.

    Raises: SecretError without a key ring, for what was changed or sealed for somebody else, or for a file without
    the entry.
    """
    ref = told(rest)
    try:
        path, name = _parts(rest, base)
        if path is None:
            return clean(ring().unseal_reference(rest, owner), ref)
        held = key_files.read(path, ring())
        if name not in held.entries:
            known = ", ".join(sorted(held.entries)[:10]) or "none"
            raise SecretError(f"the file has no entry {name!r:.80}; it has: {known}")
        return clean(ring().unseal_reference(held.entries[name], name), ref)
    except SecretError as error:
        message = str(error)
        raise SecretError(
            message if message.startswith((ref, "LLMSHIELD_")) else f"{ref}: {message}"
        ) from None


def warn(rest: str, base: Path) -> str:
    """What is unsafe about a key file; "" for a key in the policy itself."""
    path, _ = _parts(rest, base)
    return key_files.danger(path) if path is not None else ""


def told(rest: str) -> str:
    """The reference in short: of a sealed key only whose it is."""
    if "#" in rest:
        return f"enc://{rest}"
    if rest.startswith(FERNET):
        return "enc://gAAAA…"
    try:
        return f"enc://v1.{read_reference(rest)[0] or '_'}.…"
    except SecretError:
        return "enc://…"


def _parts(rest: str, base: Path) -> tuple[Path | None, str]:
    """(file, entry), or (None, "") where the key itself stands in the reference: neither form of it has a `#`."""
    path, mark, name = rest.partition("#")
    return (base / path, name) if mark else (None, "")
