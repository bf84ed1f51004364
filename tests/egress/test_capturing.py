"""Why local capture would not work here, said before it is tried; each reason from the file or program that tells it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmshield.egress import capturing

V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
V1 = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"
HYBRID = V1 + "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"


@pytest.mark.parametrize(
    ("release", "fits"),
    [("6.8.0-45-generic", True), ("6.18.44", True), ("7.0", True), ("6.7.9", False), ("5.15.0-1-amd64", False),
     ("of-my-own", True)],
)  # fmt: skip
def test_kernels(release: str, fits: bool) -> None:
    assert (capturing.kernel(release) is None) is fits


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [(V2, None), (V1, "tmpfs"), (HYBRID, "tmpfs"), (V1 + V2, None), (V2 + V1, "tmpfs"), ("", "not there"), ("\n \n", "not there")],
)  # fmt: skip
def test_control_groups(mounts: str, kind: str | None) -> None:
    """The mount that was made last is the one that is seen."""
    said = capturing.groups(mounts)

    assert (said is None) if kind is None else said is not None and f"is {kind}" in said


@pytest.mark.parametrize(
    ("program", "works", "why"),
    [(None, True, "no sudo"), ("/usr/bin/sudo", True, None), ("/usr/bin/sudo", False, "password")],
)
def test_sudo(program: str | None, works: bool, why: str | None) -> None:
    said = capturing.sudo(program, lambda path: works)

    assert (said is None) if why is None else said is not None and why in said


@pytest.mark.parametrize(
    ("held", "uid", "lacking"),
    [
        ("000001ffffffffff", 0, ""),
        ("0000000000001000", 0, "CAP_SYS_ADMIN"),
        ("00000000a80425fb", 0, "CAP_NET_ADMIN and no CAP_SYS_ADMIN"),
        ("0000000000000000", 1000, ""),  # sudo will tell
    ],
)
def test_capabilities(held: str, uid: int, lacking: str) -> None:
    said = capturing.capabilities(f"Name:\tx\nCapEff:\t{held}\nCapBnd:\t0\n", uid)

    assert (said is None) if not lacking else said is not None and f"no {lacking} " in said


def test_the_gateway_is_never_captured() -> None:
    assert capturing.spec("") == "!llmshield-gate"
    assert capturing.spec("curl,12") == "curl,12,!llmshield-gate"
    assert len(capturing.GATEWAY) <= 15


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has such a name")
def test_its_name_is_taken() -> None:
    code = "from llmshield.egress import capturing; capturing.call_gateway(); print(open('/proc/self/comm').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == capturing.GATEWAY


def test_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One reason at a time, the same as its own function says; none where the system asks by itself."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert capturing.trouble() is None
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", str(tmp_path))
    said = capturing.trouble()

    assert said is not None
    assert said.endswith(".")
