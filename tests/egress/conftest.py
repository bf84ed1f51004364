"""Network namespaces for tests: rules are set in rooms of their own, never on this machine. Root only."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Namespace:
    """A network namespace with loopback up, alive as long as its sleeper is."""

    def __init__(self) -> None:
        self.sleeper = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 100000"],
            stdout=subprocess.PIPE,
        )
        assert self.sleeper.stdout is not None
        assert self.sleeper.stdout.readline() == b"up\n"

    @property
    def pid(self) -> int:
        return self.sleeper.pid

    def words(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", *command]

    def run(
        self, *command: str, check: bool = True, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*command), capture_output=True, text=True, check=check, input=text, timeout=120
        )

    def shield(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`llmshield egress ...` inside."""
        return self.run(sys.executable, "-m", "llmshield", "egress", *words, check=check)

    def close(self) -> None:
        self.sleeper.kill()
        self.sleeper.wait()
        if self.sleeper.stdout is not None:
            self.sleeper.stdout.close()


def why_not(tools: Sequence[str]) -> str:
    """Why namespaces can't be used here; empty where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [tool for tool in ("unshare", "nsenter", "ip", *tools) if shutil.which(tool) is None]
    if missing:
        return f"not installed here: {', '.join(missing)} (util-linux, iproute2, nftables, iptables)"
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0:
        return "this system makes no network namespaces (a container without the right to?)"
    return ""


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own. `@pytest.mark.parametrize` nothing: tools are asked for by `needs` of the module."""
    if reason := why_not(getattr(request.module, "NEEDS", ())):
        pytest.skip(reason)
    made = Namespace()
    yield made
    made.close()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces and a cable: 10.77.0.1 and fd77::1 to 10.77.0.2 and fd77::2; the first one's default route."""
    if reason := why_not(getattr(request.module, "NEEDS", ())):
        pytest.skip(reason)
    near, far = Namespace(), Namespace()
    try:
        near.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(far.pid))
        for space, last in ((near, 1), (far, 2)):
            space.run("ip", "addr", "add", f"10.77.0.{last}/24", "dev", "cable")
            space.run("ip", "addr", "add", f"fd77::{last}/64", "dev", "cable", "nodad")
            space.run("ip", "link", "set", "cable", "up")
        near.run("ip", "route", "add", "default", "via", "10.77.0.2")
        near.run("ip", "-6", "route", "add", "default", "via", "fd77::2")
        yield near, far
    finally:
        near.close()
        far.close()
