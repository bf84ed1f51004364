"""Connections as the kernel shows them: our own, live; and tables written by hand."""

import os
import socket
import sys
from pathlib import Path

import pytest

from llmshield.egress import sockets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_of_this_process_is_found(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((host, port)) as client:
            local = client.getsockname()[:2]
            seen = sockets.connections()
            listening = sockets.listeners(port)

    (found,) = [each for each in seen.connections if each.local == local and each.remote == (host, port)]
    assert found.process is not None
    assert (found.process.pid, found.process.uid, found.uid) == (os.getpid(), os.geteuid(), os.geteuid())
    assert "python" in found.process.program or "pytest" in found.process.program
    assert (host, os.geteuid()) in listening, "others may listen at the same port of another address"


HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def write_proc(folder: Path) -> Path:
    net = folder / "7" / "net"
    net.mkdir(parents=True)
    (folder / "7" / "fd").mkdir()
    (folder / "7" / "ns").mkdir()
    (folder / "7" / "ns" / "net").symlink_to("net:[1]")
    (folder / "7" / "fd" / "3").symlink_to("socket:[111]")
    (folder / "7" / "fd" / "4").symlink_to("/dev/null")
    (folder / "7" / "cmdline").write_bytes(b"/usr/bin/python3\0/srv/app/worker.py\0--key=sk-secret\0")
    (folder / "self").symlink_to(folder / "7")
    order = sys.byteorder

    def word(text: str) -> str:
        return "".join(
            f"{int.from_bytes(bytes.fromhex(text[at : at + 8]), order):08X}" for at in range(0, len(text), 8)
        )

    v4, mapped = word("0A4D0002"), word("00000000000000000000FFFF0A4D0002")
    v6 = word("FD770000000000000000000000000002")
    me = word("0A4D0001")
    (net / "tcp").write_text(
        HEAD
        + f"   0: {me}:D431 {v4}:01BB 01 00000000:00000000 02:0000 00000000  1000        0 111 1 0 20 4 30 10 -1\n"
        + f"   1: {me}:D432 {v4}:01BB 06 00000000:00000000 02:0000 00000000  1000        0 0 1 0 20 4 30 10 -1\n"
        + "   2: 00000000:1F90 00000000:0000 0A 00000000:00000000 02:0000 00000000  1337        0 113 1 0 20 4\n"
        + "broken\n"
    )
    (net / "tcp6").write_text(
        HEAD
        + f"   0: {mapped}:D431 {mapped}:0050 02 00000000:00000000 02:0000 00000000  1001        0 114 1 0 20 4 30 10 -1\n"
        + f"   1: {v6}:D431 {v6}:01BB 01 00000000:00000000 02:0000 00000000  1001        0 115 1 0 20 4 30 10 -1\n"
    )
    return folder


def test_tables_of_the_kernel(tmp_path: Path) -> None:
    seen = sockets.connections(write_proc(tmp_path))

    rows = {
        (each.remote, each.uid, each.process.program if each.process else None) for each in seen.connections
    }
    assert rows == {
        (("10.77.0.2", 443), 1000, "python3 worker.py"),
        (("10.77.0.2", 80), 1001, None),
        (("fd77::2", 443), 1001, None),
    }
    assert sockets.listeners(8080, tmp_path) == [("0.0.0.0", 1337)]
    assert "secret" not in str(seen)
