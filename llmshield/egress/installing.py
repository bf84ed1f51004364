"""Put the root into the trust store of the whole system, and take it out again, with the system's own tool.

What reads the system's store then trusts the proxy without a variable: curl, git, Python's ssl, Go, .NET; not Java,
Node, or packages that bring certifi. Only systems whose tool is found are served; for others the steps are told.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmshield.child_environment import without_secrets
from llmshield.egress.certificates import CaError

NAME = "llmshield-egress.crt"


@dataclass(frozen=True, slots=True)
class Tool:
    """A system's tool: the folder for certificates of one's own, and the command that takes them over."""

    command: tuple[str, ...]
    folder: Path


TOOLS = (
    Tool(
        ("update-ca-certificates",), Path("/usr/local/share/ca-certificates")
    ),  # Debian, Ubuntu, Alpine, SUSE
    Tool(("update-ca-trust", "extract"), Path("/etc/pki/ca-trust/source/anchors")),  # Red Hat, Fedora, Amazon
    Tool(("trust", "extract-compat"), Path("/etc/ca-certificates/trust-source/anchors")),  # Arch
)


def find_tool(tools: tuple[Tool, ...] = TOOLS) -> Tool:
    """The tool of this system. Raises: CaError that says what to do by hand."""
    for tool in tools:
        if shutil.which(tool.command[0]) and tool.folder.parent.is_dir():
            return tool
    by_hand = (
        "on macOS: sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain ca.crt; on"
        " Windows: certutil -addstore -f Root ca.crt"
    )
    raise CaError(
        f"No tool of a system's trust store was found here ({sys.platform}). Export ca.crt (llmshield egress ca export)"
        f" and install it by hand; {by_hand}"
    )


def install(pem: bytes, tool: Tool, environ: Mapping[str, str] | None = None) -> Path:
    """Have the system trust these roots (one PEM), in place of what an earlier call installed. Returns the file.

    Some tools take one certificate in a file only, so of two roots (a rotation) each gets a file. Raises: CaError.
    """
    parts = [
        part + b"-----END CERTIFICATE-----\n"
        for part in pem.split(b"-----END CERTIFICATE-----\n")
        if part.strip()
    ]
    try:
        tool.folder.mkdir(parents=True, exist_ok=True)
        _remove(tool)
        for number, part in enumerate(parts):
            path = tool.folder / (NAME if number == 0 else f"llmshield-egress-{number}.crt")
            path.write_bytes(part.lstrip())
            path.chmod(0o644)
    except OSError as error:
        raise CaError(
            f"{error.filename}: {error.strerror}; run it as root, or as the owner of that folder"
        ) from None
    _run(tool, environ)
    return tool.folder / NAME


def uninstall(tool: Tool, environ: Mapping[str, str] | None = None) -> bool:
    """Take our roots out of the system's store. Returns whether there were any. Raises: CaError."""
    try:
        found = _remove(tool)
    except OSError as error:
        raise CaError(
            f"{error.filename}: {error.strerror}; run it as root, or as the owner of that folder"
        ) from None
    if found:
        _run(tool, environ)
    return found


def _remove(tool: Tool) -> bool:
    found = [*tool.folder.glob("llmshield-egress*.crt")]
    for path in found:
        path.unlink()
    return bool(found)


def _run(tool: Tool, environ: Mapping[str, str] | None) -> None:
    done = subprocess.run(  # noqa: S603 - a fixed command of the system
        tool.command,
        capture_output=True,
        text=True,
        check=False,
        env=without_secrets(environ),
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CaError(
            f"{' '.join(tool.command)} failed ({done.returncode}): {said[-1] if said else 'it said nothing'}"
        )
