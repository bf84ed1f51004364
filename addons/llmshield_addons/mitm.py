"""The addon for mitmproxy: ends TLS for the policy's hosts and splices the plain bytes to llmshield's gateway.

It needs the standard library and mitmproxy (12.2 or later) and nothing else, so that it runs inside any mitmproxy:

    LLMSHIELD_EGRESS=/run/llmshield/egress.json mitmdump -s "$(llmshield egress addon-path)"

The file is written by `llmshield egress gateway`. No policy runs here. Rule 1: whatever a hook raises ends in a refused
connection, never in one that goes on (mitmproxy itself logs the exception and forwards). Rule 2: `server_connect` is
the one gate: no connection leaves that no hook has let go. Rule 3: both directions of everything are streamed.

An HTTP/1.1 client's bytes are spliced as they are; one that speaks HTTP/2 only, or plain HTTP, has its requests
rewritten to the gateway, with their origin in a header. Facts about mitmproxy's own behaviour, and what else was
tried, are in docs/mounts/egress.md.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitmproxy import connection, ctx, http, tls
from mitmproxy.proxy import layer, server_hooks
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.layers.tls import ClientTLSLayer
from mitmproxy.proxy.mode_specs import LocalMode

if TYPE_CHECKING:
    from llmshield_addons.llmshield_alive import Alive, ask_at
    from llmshield_addons.llmshield_captured import captured
    from llmshield_addons.llmshield_known import Known, ip_of, kind_of, shown
    from llmshield_addons.llmshield_splice import Closed, Splice, to_gateway
    from llmshield_addons.llmshield_words import MALFORMED, UNAVAILABLE, answer, drop_trailers, speak
else:  # mitmproxy and Python put a script's own folder on the path
    from llmshield_alive import Alive, ask_at
    from llmshield_captured import captured
    from llmshield_known import Known, ip_of, kind_of, shown
    from llmshield_splice import Closed, Splice, to_gateway
    from llmshield_words import MALFORMED, UNAVAILABLE, answer, drop_trailers, speak

log = logging.getLogger("llmshield")

HEADER = "x-llmshield-origin"
_HEAD = 64 * 1024
"""Bytes of a request's head that are looked at for an upgrade."""
_RESOLVE_S = 60.0
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_PARALLEL = 10_000
"""Connections at once that one client may have to one address: mitmproxy's own limit of 5 holds up the sixth call of
an HTTP/2 client (mitmproxy#8322)."""


Hook = Callable[..., None]


def _fails_closed(refuse: str) -> Callable[[Hook], Hook]:
    """Whatever the hook raises, `refuse` (a method of the addon) ends what the hook was asked about."""

    def wrap(hook: Hook) -> Hook:
        @functools.wraps(hook)
        def guarded(self: Any, about: Any) -> None:
            try:
                hook(self, about)
            except Exception as error:  # noqa: BLE001  rule 1
                log.error("llmshield: %s failed (%s); refused", hook.__name__, type(error).__name__)
                self.count("error", "", "")
                getattr(self, refuse)(about)

        return guarded

    return wrap


class LLMShield(Known, Alive):
    """The addon. `said` is what `llmshield egress` hands over; without it, it is read from the file that
    `LLMSHIELD_EGRESS` names. `counts` holds connections by what became of them, host and client."""

    def __init__(self, said: dict[str, Any] | None = None) -> None:
        supervised = said is not None
        if said is None:
            said = json.loads(Path(os.environ["LLMSHIELD_EGRESS"]).read_text(encoding="utf-8"))
        assert said is not None
        Known.__init__(self, said)
        Alive.__init__(self)
        self._supervised = supervised
        self.token: str = said["token"]
        self.errors: dict[str, dict[str, Any]] = said["errors"]
        self.malformed: dict[str, dict[str, Any]] = said["malformed"]
        self.unlisted: str = said["unlisted"]
        self.on_no_sni: str = said["on_no_sni"]
        self.passes = {"websocket": said["websocket"] == "pass", "grpc": said["grpc"] == "pass"}
        self.bypasses: bool = said["on_crash"] == "bypass"
        self.let: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
        """Destinations that a client's connection may go to past the gateway."""
        self.counts: dict[tuple[str, str, str], int] = {}

    # -- life --------------------------------------------------------------------------------------------------

    def running(self) -> None:
        speak()
        drop_trailers()
        # Else mitmproxy opens a connection to the real provider for each client, and copies names into our leaf.
        ctx.options.update(connection_strategy="lazy", upstream_cert=False)
        todo = [self._resolve(), *([] if self._supervised else [self.watch(self.gateway, self.token)])]
        self._tasks = [asyncio.get_running_loop().create_task(each) for each in todo]

    def done(self) -> None:
        for task in getattr(self, "_tasks", ()):
            task.cancel()

    async def _resolve(self) -> None:
        """Keep the addresses of the listed hosts: TLS without a name, to one of them, is a way round."""
        loop = asyncio.get_running_loop()
        while True:
            found: set[str] = set()
            for host, about in self.exact.items():
                if about["connect"]:
                    continue
                try:
                    infos = await loop.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
                except (OSError, UnicodeError):
                    continue
                found.update(str(info[4][0]) for info in infos)
            self.addresses = frozenset(found) or self.addresses
            await asyncio.sleep(_RESOLVE_S)

    def count(self, how: str, host: str, client: str) -> None:
        """One more connection that ended up so."""
        key = (how, shown(host), client)
        if key in self.counts or len(self.counts) < 10_000:
            self.counts[key] = self.counts.get(key, 0) + 1

    # -- refusals ----------------------------------------------------------------------------------------------

    def _refuse_tls(self, data: tls.ClientHelloData) -> None:
        """No byte goes on: it passes undecrypted, to a server that `server_connect` refuses."""
        data.ignore_connection = True
        data.context.server.llmshield = "refused"  # type: ignore[attr-defined]

    def _refuse_server(self, data: server_hooks.ServerConnectionHookData) -> None:
        data.server.error = "refused by llmshield"

    def _hang_up(self, data: server_hooks.ServerConnectionHookData) -> None:
        handler = ctx.master.addons.get("proxyserver").connections.get(data.client.id)
        if handler is not None:
            handler.close_connection(data.client)
            handler.close_connection(data.server)

    def _refuse_layer(self, nextlayer: layer.NextLayer) -> None:
        nextlayer.layer = Closed(nextlayer.context.fork())

    def _refuse_flow(self, flow: http.HTTPFlow) -> None:
        flow.request.stream = False
        flow.response = self.answer("", 500)

    def answer(self, family: str, status: int = 503, message: str = "") -> http.Response:
        """An answer of our own in the words of a family of providers."""
        said = {**(self.errors.get(family) or self.errors[""]), "status": status}
        if message:
            said["headers"] = {
                name: value for name, value in said["headers"].items() if name != "retry-after"
            }
            said["body"] = json.dumps({"error": {"message": message, "type": "forbidden"}})
        return answer(said)

    # -- hooks -------------------------------------------------------------------------------------------------

    @_fails_closed("_ignore")
    def client_connected(self, client: connection.Client) -> None:
        handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
        if handler is not None:
            handler.max_conns = defaultdict(lambda: asyncio.Semaphore(_PARALLEL))
            if isinstance(client.proxy_mode, LocalMode):
                handler.layer = captured(handler.layer, self.ports)

    def _ignore(self, about: Any) -> None:
        """Nothing was decided yet."""

    @_fails_closed("_ignore")
    def client_disconnected(self, client: connection.Client) -> None:
        self.let.pop(client.id, None)
        self.waiting.discard(client.id)

    @_fails_closed("_refuse_flow")
    def http_connect(self, flow: http.HTTPFlow) -> None:
        """CONNECT: refused at once where it could only fail."""
        host, port = flow.request.host, flow.request.port
        why = self.may_go((host, port))
        if why is None and self.unlisted == "block" and not self.find(host) and ip_of(host) is None:
            why = "this host is none of the policy's egress.hosts"
            self.count("blocked", host, flow.client_conn.peername[0])
        if why is not None:
            flow.response = self.answer("", 403, why)

    @_fails_closed("_refuse_tls")
    def tls_clienthello(self, data: tls.ClientHelloData) -> None:
        """Decide about a connection, before any certificate is made."""
        client, server, sni = data.context.client, data.context.server, data.client_hello.sni
        to = server.address
        peer = client.peername[0]
        host = sni or (to[0] if to else "")
        if sni is None or self.find(sni) is None:
            how = self.unlisted if sni else self.on_no_sni
            there = to[0] if to else ""
            # A listed host's name as the destination, and another one in the handshake, is a way round; an address may be
            # a CDN's, which other hosts share.
            if self.find(there) is not None or (not sni and there in self.addresses):
                how = "block"
            if how == "block":
                self.count("blocked", host, peer)
                self._refuse_tls(data)
                return
            self._tell_of(how, peer, host)
            self._let_by(data, "passed", host)
        elif self.is_bypassed(peer, host):
            self._let_by(data, "bypassed", host)
        elif not self.gateway_up and self.bypasses:
            self._let_by(data, "crash_bypassed", host)
        else:
            self.count("intercepted", host, peer)
            server.llmshield_to = to or (sni, 443)  # type: ignore[attr-defined]
            if to and not server.connected:
                server.address = (
                    sni,
                    to[1],
                )  # else the address would stand in the leaf: our CA may not sign it
            if not data.client_hello.alpn_protocols or b"http/1.1" in data.client_hello.alpn_protocols:
                client.alpn = b"http/1.1"

    def _tell_of(self, how: str, client: str, host: str) -> None:
        """`log` of the policy."""
        if how == "log":
            log.warning("llmshield: %s passes unguarded to %s", client, shown(host))

    def _let_by(self, data: tls.ClientHelloData, how: str, host: str) -> None:
        """It passes as it is, undecrypted."""
        client, to = data.context.client, data.context.server.address
        self.count(how, host, client.peername[0])
        if to and self.may_go((to[0], to[1])) is None:
            self.let[client.id].add((to[0], to[1]))
        data.ignore_connection = True

    @_fails_closed("_ignore")
    def tls_failed_client(self, data: tls.TlsData) -> None:
        """Mostly a client that pins certificates, or does not know our authority."""
        client = data.context.client
        if self.find(client.sni):
            self.count("distrusted", client.sni or "", client.peername[0])

    @_fails_closed("_refuse_layer")
    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        """Behind our TLS: splice the client's bytes to the gateway."""
        context = nextlayer.context
        client = context.client
        about = self.find(client.sni) if client.tls_established else None
        given = nextlayer.layer  # inside mitmdump the built-in addon has chosen already
        if about is None or not (given is None or isinstance(given, HttpLayer)):
            return
        top = context.layers[-1 if given is None else -2]
        if not isinstance(top, ClientTLSLayer) or client.alpn not in (b"http/1.1", b"http/1.0", b"", None):
            return
        if self.passes["websocket"]:
            head = nextlayer.data_client()[:_HEAD].partition(b"\r\n\r\n")[0].lower()
            if b"\r\nupgrade:" in head and b"websocket" in head:
                return
        if given is not None:
            context.layers.remove(given)
        inner = context.fork()
        inner.server = to_gateway(self.gateway)
        to = getattr(context.server, "llmshield_to", None) or (client.sni, 443)
        line = b"LLMSHIELD/1 " + self._origin(client, client.sni, to).encode() + b"\r\n"
        nextlayer.layer = Splice(inner, line, self.errors.get(about["family"]) or self.errors[""], self)

    @_fails_closed("_refuse_server")
    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        """The gate."""
        server, client = data.server, data.client
        to = (server.address[0], server.address[1]) if server.address else ("", 0)
        mark = getattr(server, "llmshield", "")
        if (mark == "gateway" and to == self.gateway) or mark == "raw":
            return
        let = self.let.get(client.id, ())
        if to == self.gateway and to in let:
            ask_at(server, time.monotonic())
            return
        why = "this connection was refused" if mark == "refused" else self.may_go(to)
        if why is None and to not in let:
            if self.find(to[0]) is not None or to[0] in self.addresses:
                why = "it is neither TLS nor HTTP, to a host of the policy"
            elif self.unlisted == "block":
                why = "this host is none of the policy's egress.hosts"
        if why is not None:
            self.count("refused", to[0], client.peername[0])
            log.info("llmshield: %s may not go to %s:%s: %s", client.peername[0], shown(to[0]), to[1], why)
            server.error = f"refused by llmshield: {why}"
            return
        if to not in let:  # neither TLS nor HTTP
            self.count("passed", to[0], client.peername[0])
            self._tell_of(self.unlisted, client.peername[0], to[0])
        about = self.find(to[0])
        if about is not None and about["connect"] and to in let:
            server.llmshield = "connect"  # type: ignore[attr-defined]
            server.sni = server.sni or to[0]
            server.address = (about["connect"][0], about["connect"][1])

    @_fails_closed("_hang_up")
    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """A name may have led where no address may: nothing has been sent yet, and nothing will be."""
        to = data.server.peername
        if (
            getattr(data.server, "llmshield", "") in ("gateway", "raw", "connect")
            or not to
            or to[:2] == self.gateway
        ):
            return
        if self.is_closed(to[0], to[1]) is not None:
            self.count("refused", to[0], data.client.peername[0])
            self._hang_up(data)

    @_fails_closed("_refuse_flow")
    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """HTTP that mitmproxy itself reads: HTTP/2, WebSockets, and plain HTTP."""
        request, client = flow.request, flow.client_conn
        sni = client.sni if client.tls_established else None
        host = sni or request.pretty_host
        about = self.find(host) or self.find(request.host)
        request.stream = True
        if about is None:
            if request.host in self.addresses:
                self._refuse(flow, "this address belongs to a host of the policy")
            elif self.unlisted == "block":
                self._refuse(flow, "this host is none of the policy's egress.hosts")
            elif why := self.may_go((request.host, request.port)):
                self._refuse(flow, why)
            else:
                self.count("passed", host, client.peername[0])
                self._tell_of(self.unlisted, client.peername[0], host)
                self.let[client.id].add((request.host, request.port))
            return
        family = about["family"]
        flow.metadata[UNAVAILABLE] = self.errors.get(family) or self.errors[""]
        flow.metadata[MALFORMED] = self.malformed.get(family) or self.malformed[""]
        if shown(host) != host:
            request.stream = False
            flow.response = answer(flow.metadata[MALFORMED])
            return
        kind = kind_of(request)
        if kind and self.passes[kind]:
            self.count(kind, host, client.peername[0])
            self.let[client.id].add((request.host, request.port))
            return
        if not self.gateway_up and self.bypasses:
            self.count("crash_bypassed", host, client.peername[0])
            self.let[client.id].add((request.host, request.port))
            return
        if not self.gateway_up:
            request.stream = False
            flow.response = self.answer(family)
            return
        self.count("rewritten", host, client.peername[0])
        # Plain HTTP names its host in the request alone: in transparent mode the destination is an address.
        to = getattr(flow.server_conn, "llmshield_to", None) if sni else None
        to = to or (host, request.port)
        named = request.host_header or host
        self.let[client.id].add(self.gateway)
        if request.is_http2 and "content-length" not in request.headers and request.method in _WITH_BODY:
            request.headers["transfer-encoding"] = "chunked"  # else nothing would tell where the body ends
        request.scheme, request.host, request.port = "http", self.gateway[0], self.gateway[1]
        request.host_header = named
        request.headers[HEADER] = self._origin(client, sni, to)

    def _origin(self, client: connection.Client, sni: str | None, to: Any) -> str:
        """What the gateway is told (`llmshield.origins`)."""
        said = {"t": self.token, "peer": list(client.peername[:2]), "sni": sni, "dst": [to[0], to[1]]}
        return json.dumps(said, separators=(",", ":"))

    def _refuse(self, flow: http.HTTPFlow, why: str) -> None:
        flow.request.stream = False
        self.count("blocked", flow.request.pretty_host, flow.client_conn.peername[0])
        flow.response = self.answer("", 403, why)

    @_fails_closed("_ignore")
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        ask_at(flow.server_conn, None)
        if flow.response is not None:
            flow.response.stream = True


addons = [LLMShield()] if os.environ.get("LLMSHIELD_EGRESS") else []
