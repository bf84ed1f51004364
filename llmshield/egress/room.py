"""A closed room for one command: a network namespace in which every address leads to us, and nothing else is there.

The room has a loopback and no other interface. Two routes, `local 0.0.0.0/0 dev lo` and the same for IPv6, have the
kernel deliver every packet inside, whatever its destination; a socket that listens on all addresses gets it, and is
told the destination as its own address. So there is nothing to redirect, and no firewall, bridge or cable that could be
got around or left behind: the room ends with the last process in it. What nobody listens for is refused at once.

The sockets are made inside and handed out; their owner stays outside and can reach the proxy. A user namespace comes
with the room, so that no root is needed, and root inside is nobody outside: it can't enter another namespace.

This module runs between fork and exec: system calls only, no imports, no locks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence

from llmshield.errors import ShieldError

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_NETLINK_ROUTE, _RTM_NEWROUTE = 0, 24
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE = 0x1, 0x4, 0x400
_RT_TABLE_LOCAL, _RTPROT_STATIC, _RTN_LOCAL, _RT_SCOPE_HOST = 255, 4, 2, 254
_RTA_OIF, _LOOPBACK = 4, 1
_IP_PKTINFO, _IPV6_RECVPKTINFO = 8, 49
NAMES_PORT = 53


class RoomError(ShieldError):
    """A room can't be made here; the message says what to do."""


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def enter() -> None:
    """Leave this process's user and network namespaces for new ones. Raises: OSError."""
    if _libc is None:
        raise OSError(errno.ENOSYS, "network namespaces need Linux")
    _system(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET))


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that made it ends."""
    if _libc is not None:
        _system(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0))


def map_users(pid: int) -> None:
    """From outside: have users and groups inside the room be who they are outside.

    Root maps everybody that it knows, so that it may still change users inside; others map themselves. Raises: OSError.
    """
    root = os.geteuid() == 0
    if not root:
        _write(f"/proc/{pid}/setgroups", "deny")
    for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
        ranges = (
            [line.split() for line in _read(f"/proc/self/{kind}_map").splitlines()]
            if root
            else [[str(own), "", "1"]]
        )
        _write(f"/proc/{pid}/{kind}_map", "".join(f"{first} {first} {count}\n" for first, _, count in ranges))


def furnish(ports: Sequence[int]) -> list[socket.socket]:
    """From inside: loopback up, every address ours; listening sockets for TCP ports, then those for names (UDP).

    IPv6 is left out where the system has none. Raises: OSError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _up(control)
    families = [socket.AF_INET]
    _route(socket.AF_INET)
    try:
        _route(socket.AF_INET6)
        families.append(socket.AF_INET6)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.ENODEV):
            raise
    made = [_listening(family, port) for family in families for port in ports]
    return made + [_asking(family) for family in families]


def hand_over(channel: socket.socket, sockets: Sequence[socket.socket]) -> None:
    """Send sockets to whoever is at the other end of the channel."""
    socket.send_fds(channel, [b"s"], [each.fileno() for each in sockets])


def take_over(channel: socket.socket, most: int = 250) -> list[socket.socket]:
    """The sockets that were handed over. Raises: RoomError with the word of the other end when it failed."""
    data, handles, _, _ = socket.recv_fds(channel, 4096, most)
    if data[:1] == b"s":
        return [socket.socket(fileno=handle) for handle in handles]
    raise RoomError(data[1:].decode(errors="replace") or "The room was not made: its process ended.")


def _up(control: socket.socket) -> None:
    import fcntl

    request = struct.pack("16sH14x", b"lo", 0)
    flags = struct.unpack_from("16sH", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _route(family: int) -> None:
    """`ip route add local 0.0.0.0/0 dev lo`, as rtnetlink(7) says it."""
    message = struct.pack(
        "BBBBBBBBI", family, 0, 0, 0, _RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0
    ) + struct.pack("HHI", 8, _RTA_OIF, _LOOPBACK)
    flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as kernel:
        kernel.bind((0, 0))
        kernel.send(struct.pack("IHHII", 16 + len(message), _RTM_NEWROUTE, flags, 1, 0) + message)
        code = struct.unpack_from("i", kernel.recv(4096), 16)[0]
    if code:
        raise OSError(-code, os.strerror(-code))


def _listening(family: int, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("", port))
    made.listen(1024)
    return made


def _asking(family: int) -> socket.socket:
    """A socket for questions to any server of names; it is told which one was asked, to answer as that one."""
    made = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    made.bind(("", NAMES_PORT))
    return made


def answer_from(received: Sequence[tuple[int, int, bytes]], family: int) -> list[tuple[int, int, bytes]]:
    """Ancillary data that sends from the address to which something was sent."""
    for level, kind, data in received:
        if family == socket.AF_INET and (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, _, asked = struct.unpack("i4s4s", data[:12])
            return [(level, kind, struct.pack("i4s4s", 0, asked, b"\0\0\0\0"))]
        if family == socket.AF_INET6 and (level, kind) == (socket.IPPROTO_IPV6, 50):  # IPV6_PKTINFO
            return [(level, kind, data[:16] + struct.pack("i", 0))]
    return []


def _read(path: str) -> str:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, 65536).decode()
    finally:
        os.close(handle)


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _system(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
