"""Start one command so that its calls obey the policy: with variables set, or in a closed room.

With variables the command takes this process's place. In a room this process stays: it forwards what the command sends
to the proxy, passes signals on, and ends as the command ended. When it is killed, so is the command; nothing is left
behind, since there is nothing outside the processes themselves.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence

from llmshield.egress import room
from llmshield.egress.forwarding import Forwarder
from llmshield.egress.room import RoomError

NOT_FOUND, NOT_RUN = 127, 126
"""Exit statuses that shells use for a command that isn't there, and one that can't be run."""

_PASSED_ON = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
)  # fmt: skip


def replace(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Have the command take this process's place. Returns an exit status only when it can't be run."""
    try:
        os.execvpe(command[0], [*command], dict(environ))  # noqa: S606 - what the user asked for
    except OSError as error:
        return _not_run(command[0], error)


def isolate(
    command: Sequence[str],
    environ: Mapping[str, str],
    ports: Sequence[int],
    proxy: tuple[str, int],
    direct: Mapping[int, tuple[str, int]] | None = None,
) -> int:
    """Run the command in a room of its own, and return its exit status; 128 and the signal's number if one ended it.

    Raises: RoomError when no room can be made here.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        ours.close()
        _inside(theirs, command, environ, [*dict.fromkeys([*ports, *(direct or ())])])
    theirs.close()
    try:
        with ours:
            said = ours.recv(4096)
            if said[:1] != b"u":
                raise RoomError(said[1:].decode() or "No room was made: its process ended.")
            try:
                room.map_users(child)
            except OSError as error:
                raise RoomError(_why(error)) from None
            ours.send(b"m")
            sockets = room.take_over(ours)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    forwarder = Forwarder(proxy, direct)
    threading.Thread(target=lambda: asyncio.run(forwarder.serve(sockets)), daemon=True).start()
    return _wait(child)


def _inside(
    channel: socket.socket, command: Sequence[str], environ: Mapping[str, str], ports: Sequence[int]
) -> None:
    """The child: make the room, hand the sockets out, become the command. Never returns."""
    status = NOT_RUN
    try:
        room.die_with_parent()
        try:
            room.enter()
            channel.send(b"u")
            if channel.recv(1) != b"m":
                os._exit(NOT_RUN)
            sockets = room.furnish(ports)
            room.hand_over(channel, sockets)
        except OSError as error:
            channel.send(b"!" + _why(error).encode())
            os._exit(NOT_RUN)
        for each in (*sockets, channel):
            each.close()
        # A change of credentials in the new user namespace may have cleared it.
        room.die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        for number in (signal.SIGPIPE, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # Python's own answers are not the command's
        status = replace(command, environ)
    finally:
        os._exit(status)


def _wait(child: int) -> int:
    """Pass signals on until the child has ended; its exit status."""
    while True:
        found = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if found.si_signo != signal.SIGCHLD:
            # A terminal's own signals (Ctrl-C; si_code above 0) have reached the child already.
            if found.si_code <= 0:
                os.kill(child, found.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _not_run(name: str, error: OSError) -> int:
    sys.stderr.write(f"llmshield egress exec: {name}: {error.strerror}\n")
    sys.stderr.flush()
    return NOT_FOUND if error.errno == errno.ENOENT else NOT_RUN


def _why(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS):
        return (
            f"This system makes no user and network namespaces for you ({error.strerror}), so there is no --isolate. Allow"
            " them (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces, or"
            " kernel.apparmor_restrict_unprivileged_userns=0), run it as root, or set rules for the service's user:"
            " llmshield egress rules up --only-uid NAME"
        )
    return f"No room could be made: {error.strerror}."
