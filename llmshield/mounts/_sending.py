"""The sending half of a connection of ours: bytes go out, a client that takes nothing loses it, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from typing import Any

STALL_S = 60.0
"""A client that takes nothing for so long is gone (nginx's `send_timeout` has the same default)."""
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Sending(asyncio.Protocol):
    """What goes out on one connection."""

    stall_s = STALL_S

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = 0
        self.transport: Any = None
        self.closed = False
        """Nothing is served or written any more; what was written may still be on its way."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._release_writers()

    def _hang_up(self) -> None:
        """Cancel whoever still answers."""

    def write(self, data: bytes) -> None:
        """Send bytes; nothing happens on a connection that is gone."""
        if not self.closed:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait while the client does not take what it was sent."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    @property
    def clogged(self) -> bool:
        """The client does not take what it was sent."""
        return self._drained is not None

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()
        if self._stall is None:
            self._watch_writing()

    def resume_writing(self) -> None:
        self._unsent = sys.maxsize  # the client took something
        self._release_writers()

    def _release_writers(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _watch_writing(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._stall = self._loop.call_later(self.stall_s, self._look_at_writing)

    def _look_at_writing(self) -> None:
        """No byte went since the last look: `close` would wait for this client for ever."""
        self._stall = None
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0:
            return
        if waiting >= self._unsent and (self.clogged or self.closed):
            self.transport.abort()
        else:
            self._watch_writing()

    # -- how it ends -------------------------------------------------------------------------------------------

    def _close(self) -> None:
        """Close behind what was written; whoever still answers is cancelled."""
        self.closed = True
        self.transport.close()
        if self._stall is None and self.transport.get_write_buffer_size():
            self._watch_writing()
        self._hang_up()

    def _reset(self) -> None:
        """End with a RST: behind an answer whose end only the close tells, a plain close would say that it is whole."""
        self.closed = True
        theirs = self.transport.get_extra_info("socket")  # uvloop's is not a whole socket
        with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(theirs.fileno())) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()
        self._hang_up()
