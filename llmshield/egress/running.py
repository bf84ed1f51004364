"""`llmshield egress run`: a gateway and a proxy, each a process of its own, and the one that looks after both.

The socket between the two is bound here and nowhere else, so that nobody can take its port while a gateway that died
is started again; until then the kernel refuses connections at once. The admin port is bound here too: it says 503
while there is no gateway to answer there. Rule 1: a gateway that ends is started again. Rule 2: a proxy that ends, ends the
run: clients are refused by the kernel then. Rule 3: when this process ends, whatever ended it, so do both. Rule 4: one
that answers nobody is gone for its clients, and killed if it stays so (`pulse`).
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from llmshield import clock
from llmshield.egress import capturing, firewall, interpreter, pulse, standing
from llmshield.egress.accounts import Account
from llmshield.egress.ca import Authority, write_signing_folder
from llmshield.egress.handover import handover
from llmshield.egress.processes import Process, spawn
from llmshield.egress.seen import Seen
from llmshield.errors import ShieldError
from llmshield.logs import log
from llmshield.mounts._request import HttpRequest
from llmshield.mounts._server import Server, bind
from llmshield.mounts.egress import refuse_all
from llmshield.mounts.gateway import DRAIN_S, LINGER_S, stop_signals
from llmshield.policy import Policy
from llmshield.policy.egress import Way
from llmshield.policy.units import HostPort

START_S = 60.0
"""How long gateway or proxy may take to come up: a policy with a language model loads for 20 s."""
_AGAIN_S = (0.05, 0.2, 1.0, 5.0)
"""Waits before a gateway is started again; the last one repeats."""
_CALM_S = 30.0
"""One that has lived so long starts from the first wait again."""


@dataclass(frozen=True)
class Wanted:
    """What a run is made of. `python` has mitmproxy; `user` is whom gateway and proxy run as (None: as we do).
    `sets_rules`: the kernel's rules for transparent mode are put up and taken down with the run; else somebody else
    does that, and health waits for them where we may look."""

    policy: Policy
    file: Path
    mode: Way
    listen: HostPort
    admin: HostPort | None
    python: str
    authority: Authority
    user: Account | None = None
    local: str = ""
    sets_rules: bool = False
    on_ready: Callable[[list[str], str | None], None] = lambda listening, admin: None


class Run:
    """One run."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._token = secrets.token_urlsafe(32)
        self._admin = bind(wanted.admin, "admin") if wanted.admin is not None else None
        self._splice = reserved()
        self._address: tuple[str, int] = self._splice.getsockname()
        self._gateway: Process | None = None
        self._proxy: Process | None = None
        self._standin: Server | None = None
        self._why: str | None = "starting"
        self._beat = pulse.Pulse()
        self._stop = asyncio.Event()
        self._seen = Seen()
        self._rules = standing.of(wanted)

    async def until_stopped(self) -> None:
        """Serve until one of `stop_signals`. Raises: ShieldError when a part can't start, or the proxy has ended."""
        loop = asyncio.get_running_loop()
        for name in stop_signals():
            loop.add_signal_handler(name, self._stop.set)
        folder = Path(tempfile.mkdtemp(prefix="llmshield-egress-"))
        looking: list[asyncio.Task[None]] = []
        try:
            await self._stand_in()
            await self._first_start(folder)
            looking = [
                loop.create_task(each()) for each in (self._keep_gateway, self._keep_health, self._keep_pulse)
            ]
            assert self._proxy is not None
            over = loop.create_task(self._proxy.process.wait())
            stopped = loop.create_task(self._stop.wait())
            await asyncio.wait({over, stopped}, return_when=asyncio.FIRST_COMPLETED)
            died = over.done() and not self._stop.is_set()
            for task in (over, stopped, *looking):
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
            looking = []
            self._rules.end(crashed=died)
            await self._shut_down()
            if died:
                raise ShieldError(self._ended(self._proxy.process.returncode))
        finally:
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
            await self._shut_down()
            if self._standin is not None:
                await self._standin.stop(0.0)
            self._seen.write()
            for sock in (self._splice, self._admin):
                if sock is not None:
                    sock.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _ended(self, status: int | None) -> str:
        """What the end of the proxy means."""
        said = f"The proxy has ended (status {status}), and so does the run: "
        if self._wanted.mode == "local":
            return (
                said
                + "nothing is captured until it is started again, and what was captured goes past the policy."
            )
        return said + "clients are refused until it is started again."

    # -- the parts ---------------------------------------------------------------------------------------------

    async def _first_start(self, folder: Path) -> None:
        wanted = self._wanted
        confdir = folder / "ca"
        path = write_signing_folder(wanted.authority, confdir)
        if wanted.user is not None:
            for each in (folder, confdir, path):
                os.chown(each, wanted.user.uid, wanted.user.gid)
        # Importing mitmproxy takes a second, and so do detectors: both at once.
        async with asyncio.TaskGroup() as both:
            gateway = both.create_task(_told(self._start_gateway()))
            proxy = both.create_task(_told(self._start_proxy(confdir)))
        for done in (gateway, proxy):
            if (error := done.result()) is not None:
                raise error
        assert self._proxy is not None
        listening = [f"{host}:{port}" for host, port in self._proxy.first.result()["listening"]]
        await asyncio.to_thread(self._rules.begin)
        self._look()
        wanted.on_ready(listening, _url(self._admin))

    async def _start_gateway(self) -> None:
        """Start a gateway and wait until it serves. Raises: ShieldError."""
        admin = self._admin
        fds = tuple(sock.fileno() for sock in (self._splice, admin) if sock is not None)
        gateway = self._gateway = await self._spawn(
            "gateway",
            [
                sys.executable,
                "-m",
                "llmshield",
                "egress",
                "gateway",
                "--child",
                "--policy",
                str(self._wanted.file),
            ],
            pass_fds=fds,
        )
        gateway.tell(
            token=self._token,
            splice=self._splice.fileno(),
            admin=admin.fileno() if admin is not None else None,
            # That of the proxy, which a rotation on the disk does not change.
            issuing=self._wanted.authority.issuing.public_bytes(Encoding.PEM).decode(),
        )
        await self._first_word(gateway)
        await self._stand_down()
        if self._proxy is not None:
            self._proxy.tell(gateway=True)
        self._look()

    async def _start_proxy(self, confdir: Path) -> None:
        wanted = self._wanted
        proxy = self._proxy = await self._spawn(
            "proxy", [wanted.python, str(addon("mitm_run"))], env=interpreter.clean()
        )
        own = [self._address]
        if self._admin is not None:
            own.append(self._admin.getsockname()[:2])
        said = handover(wanted.policy, self._address, self._token, tuple(own))
        proxy.tell(**said, mode=modes(wanted), confdir=str(confdir), drain_s=DRAIN_S, roots=_roots())
        first = await self._first_word(proxy)
        if "failed" in first and wanted.mode == "local":
            raise ShieldError(f"The proxy can't capture: {first['failed']}.")
        if "failed" in first:
            raise ShieldError(
                f"The proxy can't listen on {wanted.listen}: {first['failed']}. Free it, or choose another"
                " (--listen HOST:PORT)."
            )

    async def _spawn(self, name: str, command: list[str], **more: Any) -> Process:
        made = await spawn(name, command, self._wanted.user, **more)
        made.reading = asyncio.get_running_loop().create_task(self._read(made))
        return made

    async def _read(self, process: Process) -> None:
        assert process.process.stdout is not None
        async for line in process.process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                sys.stderr.write(line.decode(errors="replace"))  # something of a library's own
                continue
            process.unanswered = 0
            if not process.first.done():
                process.first.set_result(said)
            elif counts := said.get("counts"):
                self._seen.add(counts, clock.now())
                if self._gateway is not None:
                    self._gateway.tell(seen=counts)

    async def _first_word(self, process: Process) -> dict[str, Any]:
        """What it says when it is up. Raises: ShieldError when it ends before, or takes too long."""
        over = asyncio.get_running_loop().create_task(process.process.wait())
        stop = asyncio.get_running_loop().create_task(self._stop.wait())
        waiting: set[asyncio.Future[Any]] = {process.first, over, stop}
        try:
            await asyncio.wait(waiting, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            stop.cancel()
        if process.first.done():
            return process.first.result()
        if self._stop.is_set():
            raise ShieldError("Stopped before it was up.")
        if process.process.returncode is not None:
            raise ShieldError(f"The {process.name} did not start; what it said is above.")
        raise ShieldError(f"The {process.name} was not up within {START_S:g} s.")

    # -- looking after them ------------------------------------------------------------------------------------

    async def _keep_gateway(self) -> None:
        """Start the gateway again whenever it ends."""
        attempt = 0
        while True:
            gateway = self._gateway
            assert gateway is not None
            since = clock.monotonic()
            await gateway.process.wait()
            refuse_all(self._splice)
            log.error("gateway_ended", status=gateway.process.returncode)
            self._why = "the gateway is not running"
            if self._proxy is not None:
                self._proxy.tell(gateway=False)
            await self._stand_in()
            if clock.monotonic() - since > _CALM_S:
                attempt = 0
            while True:
                await clock.sleep(_AGAIN_S[min(attempt, len(_AGAIN_S) - 1)])
                attempt += 1
                try:
                    await self._start_gateway()
                    break
                except ShieldError as error:
                    log.error("gateway_not_started", why=str(error))
                    assert self._gateway is not None
                    await self._gateway.ended(0.0)
            log.warning("gateway_started_again", attempt=attempt)

    async def _keep_pulse(self) -> None:
        """A gateway that answers nobody is gone for its clients; one that does so again is back."""
        while True:
            await clock.sleep(pulse.ASK_S)
            silent = self._beat(self._gateway, self._proxy)
            if silent is not None:
                self._look()
                await (self._stand_in() if silent else self._stand_down())

    async def _keep_health(self) -> None:
        """Rules may be taken away behind our back; who was seen is written down."""
        while True:
            await clock.sleep(1.0)
            await asyncio.to_thread(self._rules.look)
            self._look()
            await asyncio.to_thread(self._seen.write)

    def _look(self) -> None:
        """Say whether all of it is up."""
        gateway, proxy = self._gateway, self._proxy
        if gateway is None or not gateway.serves:
            self._why = "the gateway is not running"
        elif self._beat.keeps_away(gateway):
            self._why = "the gateway does not answer"
        elif proxy is None or not proxy.serves:
            self._why = "the proxy is not listening"
        else:
            self._why = "the proxy does not answer" if pulse.is_silent(proxy) else self._rules.missing
        if gateway is not None:
            gateway.tell(health=self._why)

    async def _stand_in(self) -> None:
        """Answer on the admin port ourselves: 503."""
        if self._admin is None or self._standin is not None:
            return
        self._standin = Server(self._say_why, self._admin.dup(), head_s=10.0, receive_s=10.0)
        await self._standin.start()

    async def _stand_down(self) -> None:
        if self._standin is not None:
            standin, self._standin = self._standin, None
            await standin.stop(0.1)

    async def _say_why(self, request: HttpRequest) -> None:
        body = json.dumps({"status": "unhealthy", "reason": self._why or "stopping"}).encode() + b"\n"
        head = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        await request.start(503, {**head, "cache-control": "no-store"})
        await request.send(body)
        await request.end()

    async def _shut_down(self) -> None:
        """Both finish what is under way; safe to call again."""
        parts = [part for part in (self._proxy, self._gateway) if part is not None]
        for part in parts:
            part.stop()
        await asyncio.gather(*[part.ended(DRAIN_S + LINGER_S + 2.0) for part in parts])


async def _told(starting: Any) -> ShieldError | None:
    """Its error as a value: of two that fail, the first in order is told."""
    try:
        await starting
    except ShieldError as error:
        return error
    return None


def reserved() -> socket.socket:
    """A socket on loopback that is bound and not listening. Its port was asked for by number: only such a port stays
    bound when a listening socket is shut down (Linux, inet_shutdown)."""
    for _ in range(50):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        sock = socket.socket()
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.close()
            continue
        sock.setblocking(False)
        return sock
    raise ShieldError("There is no free port on loopback.")


def modes(wanted: Wanted) -> list[str]:
    """What mitmproxy calls the mode, with its address; it would listen on all addresses without one."""
    if wanted.mode == "local":
        return [f"local:{capturing.spec(wanted.local)}"]
    at = f"@{wanted.listen.host}:{wanted.listen.port}"
    if wanted.mode == "transparent" and wanted.listen.host == "127.0.0.1" and firewall.has_ipv6():
        return [f"transparent{at}", f"transparent@::1:{wanted.listen.port}"]
    return [f"{wanted.mode}{at}"]


def addon(name: str) -> Path:
    """A file of the addons. The core knows them by name only. Raises: ShieldError."""
    from importlib.util import find_spec

    spec = find_spec(f"llmshield_addons.{name}")
    if spec is None or spec.origin is None:
        raise ShieldError(
            "llmshield_addons is not installed beside llmshield; install llmshield-sidecar again."
        )
    return Path(spec.origin)


def _roots() -> str | None:
    """Where the roots are that a connection past the gateway is checked with; None: mitmproxy's own."""
    file = os.environ.get("SSL_CERT_FILE")
    return file if file and Path(file).is_file() else None


def _url(sock: socket.socket | None) -> str | None:
    if sock is None:
        return None
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


__all__ = ["Run", "Wanted", "addon", "modes", "reserved"]
