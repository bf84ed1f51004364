"""Which processes have TCP connections to whom, as the kernel tells it (proc(5)); nothing is captured or decrypted.

Every network namespace is looked at in which a process lives that may be looked at, so containers are seen too. Of
other users' processes nobody but root sees the sockets; how many could not be looked into is told.
"""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SCRIPTS = (".py", ".js", ".mjs", ".cjs", ".ts", ".rb", ".pl", ".php", ".sh")
_ESTABLISHED, _SYN_SENT, _LISTEN = 1, 2, 10


@dataclass(frozen=True, slots=True)
class Process:
    """A process. `uid` is its effective user."""

    pid: int
    uid: int
    program: str


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection that is open, or being opened, and whose it is; `process` is None where nobody may know."""

    process: Process | None
    uid: int
    local: tuple[str, int]
    remote: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found. `hidden` processes could not be looked into."""

    connections: tuple[Connection, ...]
    hidden: int


def connections(proc: Path = Path("/proc")) -> Seen:
    """All connections of processes that may be looked at, loopback included."""
    owners, spaces, hidden = _owners(proc)
    found = dict[tuple[str, str], Connection]()
    for space, pid in spaces.items():
        for state, local, remote, uid, inode in _table(proc / str(pid) / "net"):
            if state in (_ESTABLISHED, _SYN_SENT):
                found[space, inode] = Connection(owners.get(inode), uid, local, remote)
    return Seen(tuple(found.values()), hidden)


def listeners(port: int, proc: Path = Path("/proc")) -> list[tuple[str, int]]:
    """Addresses in this namespace on which somebody listens at this port, each with the user it belongs to."""
    return [
        (local[0], uid)
        for state, local, _, uid, _ in _table(proc / "self" / "net")
        if state == _LISTEN and local[1] == port
    ]


def _owners(proc: Path) -> tuple[dict[str, Process], dict[str, int], int]:
    """Processes by the inodes of their sockets; one process of each network namespace; how many were closed to us."""
    owners, spaces, hidden = dict[str, Process](), dict[str, int](), 0
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            handles = [*_handles(entry)]
            spaces.setdefault(str((entry / "ns" / "net").readlink()), int(entry.name))
        except PermissionError:
            hidden += 1
            continue
        except OSError:
            continue  # it has ended
        sockets = [handle[8:-1] for handle in handles if handle.startswith("socket:[")]
        if sockets:
            process = _process(entry)
            owners |= dict.fromkeys(sockets, process)
    return owners, spaces, hidden


def _handles(entry: Path) -> Iterator[str]:
    for handle in entry.joinpath("fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield str(handle.readlink())


def _process(entry: Path) -> Process:
    program = "?"
    with contextlib.suppress(OSError):
        words = entry.joinpath("cmdline").read_bytes().split(b"\0")
        names = [Path(word.decode(errors="replace")).name for word in words[:2]]
        # Of an interpreter the script says more. No other argument is shown: it may be a key.
        program = " ".join(names if names[-1].endswith(_SCRIPTS) else names[:1])[:80]
        program = program or entry.joinpath("comm").read_text().strip()
    return Process(int(entry.name), _uid(entry), program)


def _uid(entry: Path) -> int:
    with contextlib.suppress(OSError):
        return entry.stat().st_uid
    return -1


def _table(net: Path) -> Iterator[tuple[int, tuple[str, int], tuple[str, int], int, str]]:
    """State, both ends, user and inode of every line of `tcp` and `tcp6`."""
    for name in ("tcp", "tcp6"):
        try:
            lines = net.joinpath(name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) >= 10:
                yield int(words[3], 16), _end(words[1]), _end(words[2]), int(words[7]), words[9]


def _end(text: str) -> tuple[str, int]:
    """`0100007F:1F90` is 127.0.0.1:8080: words of 32 bits in the machine's own order."""
    address, _, port = text.partition(":")
    raw = b"".join(struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8))
    found = ipaddress.ip_address(raw)
    return str(getattr(found, "ipv4_mapped", None) or found), int(port, 16)
