"""The layers that the addon puts behind its TLS: bytes to the gateway and back, and a closed door. No policy here.

Like `mitm`, it needs the standard library and mitmproxy and nothing else.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mitmproxy import connection
from mitmproxy.proxy import commands, events, layer, layers

if TYPE_CHECKING:
    from llmshield_addons.llmshield_alive import Alive, ask_at
else:
    from llmshield_alive import ask_at


def to_gateway(address: Any) -> connection.Server:
    """A connection that the addon lets go."""
    server = connection.Server(address=address)
    server.llmshield = "gateway"  # type: ignore[attr-defined]
    return server


class Closed(layer.Layer):
    """Closes the client's connection."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


class Splice(layers.TCPLayer):
    """Tells the gateway whose bytes follow, then relays. Without a gateway, or when it dies or falls silent before it has
    begun an answer, the client gets `error` in its provider's words; an answer that broke off ends with its connection.
    Between two requests the gateway may go (it keeps idle connections for a while only, and may be started again): the
    next request is told to the one that is there then."""

    def __init__(self, context: Any, line: bytes, error: dict[str, Any], known: Alive) -> None:
        super().__init__(context, ignore=True)
        self._line = line
        self._error = error
        self._known = known
        self._answers = Answers()

    def start(self, event: events.Start) -> layer.CommandGenerator[None]:
        self._handle_event = self.relay  # type: ignore[method-assign]
        yield from self._connect(b"")

    _handle_event = start  # type: ignore[assignment]

    def _connect(self, data: bytes) -> layer.CommandGenerator[None]:
        server = self.context.server
        if not self._known.gateway_up:
            yield from self._say_unavailable()
            return
        ask_at(server, time.monotonic())
        failed = yield commands.OpenConnection(server)
        if failed:
            yield from self._say_unavailable()
            return
        if not data:
            ask_at(server, None)
        yield commands.SendData(server, self._line + data)

    def relay(self, event: events.Event) -> layer.CommandGenerator[None]:
        client, server = self.context.client, self.context.server
        if isinstance(event, events.DataReceived):
            if event.connection != client:
                self._answers.feed(event.data)
                ask_at(server, None)
                yield commands.SendData(client, event.data)
                return
            anew, self._answers.asked = not self._answers.asked, True
            if client.id in self._known.waiting:
                self._known.waiting.discard(client.id)
                self.context.server = to_gateway(server.address)
                yield from self._connect(event.data)
            elif anew and self._answers.between and not self._known.gateway_up:
                yield from self._say_unavailable()
            else:
                if anew:
                    ask_at(server, time.monotonic())
                yield commands.SendData(server, event.data)
        elif isinstance(event, events.ConnectionClosed):
            if event.connection == server and self._answers.between:
                if self._answers.asked:
                    yield from self._say_unavailable()
                    return
                if not self._answers.last:
                    self._known.waiting.add(client.id)
                    yield commands.CloseConnection(server)
                    return
            self._handle_event = self.over  # type: ignore[method-assign]
            for each in (server, client):
                if each.state is not connection.ConnectionState.CLOSED:
                    yield commands.CloseConnection(each)

    def _say_unavailable(self) -> layer.CommandGenerator[None]:
        said = {**self._error["headers"], "x-llmshield-action": "block", "connection": "close",
                "date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())}  # fmt: skip
        body = self._error["body"].encode()
        said["content-length"] = str(len(body))
        head = f"HTTP/1.1 {self._error['status']} Service Unavailable\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in said.items())
        yield commands.SendData(self.context.client, head.encode() + b"\r\n" + body)
        self._handle_event = self.over  # type: ignore[method-assign]
        yield commands.CloseConnection(self.context.client)

    def over(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield from ()


class Answers:
    """Follows the gateway's answers on one connection just far enough to know whether one is under way: they have a
    content-length or chunks, as the gateway writes them."""

    def __init__(self) -> None:
        self.asked = False
        """The client has sent something since the last answer ended."""
        self.between = True
        """No byte of an answer has come that has not ended."""
        self.last = False
        """The gateway has said that it closes behind its answer."""
        self._left: int | None = 0

    def feed(self, data: bytes) -> None:
        """Bytes from the gateway, at least one. Answers to requests that came at once may come in one piece."""
        while data:
            if self.between:
                head, end, rest = data.partition(b"\r\n\r\n")
                if head.startswith(b"HTTP/1.1 100 ") and end:
                    data = rest
                    continue
                self.between = False
                lower = head.lower()
                self.last = b"\r\nconnection: close" in lower
                at = lower.find(b"\r\ncontent-length:")
                length = lower[at + 17 :].partition(b"\r\n")[0].strip() if at >= 0 and end else b""
                self._left = int(length) if length.isdigit() else None
                data = rest
            if self._left is not None:
                took = min(self._left, len(data))
                self._left -= took
                if self._left:
                    return
                data = data[took:]
            elif data.endswith(b"0\r\n\r\n"):
                data = b""
            elif (at := data.find(b"\r\n0\r\n\r\nHTTP/1.1 ")) >= 0:
                data = data[at + 7 :]
            else:
                return
            self.between, self.asked = True, False
