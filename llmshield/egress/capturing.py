"""What local capture needs of a machine, asked before it starts: mitmproxy's own capture fails late, and says little.

On Linux it is a program of eBPF that is attached to the root of the control groups, and started through sudo, also
where root starts it (mitmproxy 12: mitmproxy_rs, `local`). On macOS and Windows the system asks its user by itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from llmshield.child_environment import without_secrets

GATEWAY = "llmshield-gate"
"""What the gateway's process calls itself (15 characters at most): its own calls are not captured."""

OLDEST_KERNEL = (6, 8)
_GROUPS = "/sys/fs/cgroup"
_NEEDED = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN"}
"""Capabilities by number; CAP_SYS_ADMIN has CAP_BPF and CAP_PERFMON in it (man 7 capabilities)."""


def trouble() -> str | None:
    """Why nothing could be captured on this machine, with what to do; None where nothing is known to be in the way."""
    if not sys.platform.startswith("linux"):
        return None
    return (
        kernel(os.uname().release)
        or groups(Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace"))
        or sudo(shutil.which("sudo"), _sudo_works)
        or capabilities(Path("/proc/self/status").read_text(encoding="utf-8"), os.geteuid())
        or (None if Path("/dev/net/tun").exists() else "There is no /dev/net/tun here; load the module tun.")
    )


def kernel(release: str) -> str | None:
    """The same of the kernel's version (`6.8.0-45-generic`)."""
    numbers = release.split("-")[0].split(".")[:2]
    if all(number.isdigit() for number in numbers) and tuple(map(int, numbers)) < OLDEST_KERNEL:
        return f"Linux {release} is too old: 6.8 or later is needed."
    return None


def groups(mounts: str) -> str | None:
    """The same of the control groups, by the text of /proc/self/mounts."""
    kinds = [line.split()[2] for line in mounts.splitlines() if line.split()[1:2] == [_GROUPS]]
    if kinds[-1:] == ["cgroup2"]:
        return None
    return (
        f"{_GROUPS} is {kinds[-1] if kinds else 'not there'} and not cgroup2: control groups of version 1 (or both at once)"
        " can't be captured. Boot with systemd.unified_cgroup_hierarchy=1."
    )


def sudo(program: str | None, works: Callable[[str], bool]) -> str | None:
    """The same of sudo: where it is, and whether it runs something without asking."""
    if program is None:
        return (
            "There is no sudo on the PATH: mitmproxy starts its capture through it, also as root. Install it."
        )
    if not works(program):
        return f"{program} -n asks for a password or refuses: run it as root, or allow this user to (sudoers, NOPASSWD)."
    return None


def capabilities(status: str, uid: int) -> str | None:
    """The same of root's capabilities, by the text of /proc/self/status: containers take some away."""
    if uid != 0:
        return None  # it is sudo's business
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    lacking = [name for number, name in _NEEDED.items() if not held >> number & 1]
    return f"root has no {' and no '.join(lacking)} here (a container takes it away)." if lacking else None


def _sudo_works(program: str) -> bool:
    try:
        done = subprocess.run(  # noqa: S603  found on the PATH, as mitmproxy finds it
            [program, "-n", "true"], capture_output=True, check=False, timeout=20, env=without_secrets()
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def spec(wanted: str) -> str:
    """What mitmproxy is told to capture: programs by name and processes by number, never the gateway."""
    return f"{wanted},!{GATEWAY}" if wanted else f"!{GATEWAY}"


def call_gateway() -> None:
    """Take the name by which the gateway is left alone. Only Linux has one that can be taken."""
    try:
        Path("/proc/self/comm").write_text(GATEWAY, encoding="ascii")
    except OSError:
        return
