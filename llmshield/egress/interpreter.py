"""Where a mitmproxy is: it lives in an environment of its own, since its pins fit into few others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from llmshield.child_environment import without_secrets
from llmshield.errors import ShieldError

VARIABLE = "LLMSHIELD_EGRESS_PYTHON"
OLDEST = (12, 2, 2)
"""Holes were closed in it (GHSA-527g-3w9m-29hv)."""
_ASK = "import mitmproxy.version as v, sys; print(v.VERSION, sys.version_info[0], sys.version_info[1])"
HINT = (
    "Make an environment with Python 3.12 or later for it (python3.12 -m venv DIR; DIR/bin/pip install"
    f" 'mitmproxy>=12.2.2,<13') and say --python DIR/bin/python or {VARIABLE}=DIR/bin/python; or install"
    " 'llmshield-sidecar[egress]' where its pins fit. In a clone, `make egress` does it."
)


class NoMitmproxy(ShieldError):
    """There is no mitmproxy to run; the message says how to get one."""


def find(named: str | None = None) -> str:
    """A Python that has mitmproxy: the one that is named (or that `LLMSHIELD_EGRESS_PYTHON` names), else this one, else
    the one in `.venv-egress` beside this environment. Raises: NoMitmproxy."""
    given = named or os.environ.get(VARIABLE)
    if given:
        trouble = _trouble(given)
        if trouble:
            raise NoMitmproxy(f"{given}: {trouble}. {HINT}")
        return given
    beside = Path(sys.prefix).with_name(".venv-egress") / "bin" / "python"
    why = "not installed"
    for candidate in (sys.executable, str(beside)):
        if Path(candidate).exists():
            why = _trouble(candidate)
            if not why:
                return candidate
    raise NoMitmproxy(f"The transparent mount needs mitmproxy, and there is none ({why}). {HINT}")


def _trouble(python: str) -> str:
    """Why this interpreter can't be used; empty if it can."""
    try:
        done = subprocess.run(  # noqa: S603  the operator names it
            [python, "-c", _ASK], capture_output=True, text=True, timeout=30, check=False, env=clean()
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it can't be run ({type(error).__name__})"
    if done.returncode != 0:
        return "it has no mitmproxy"
    version, *python_version = done.stdout.split()
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers < OLDEST:
        return f"its mitmproxy is {version}, and {'.'.join(map(str, OLDEST))} is needed"
    if tuple(map(int, python_version)) < (3, 12):
        return "its Python is older than 3.12"
    return ""


def clean() -> dict[str, str]:
    """The environment for a process of another interpreter: nothing that would put our packages on its
    path, and no secret."""
    return {name: value for name, value in without_secrets().items() if name not in _OURS}


_OURS = frozenset(
    {"PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV", "PYTHONSTARTUP", "LLMSHIELD_EGRESS"}
)
