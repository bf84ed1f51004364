"""The proxy's process: mitmproxy with the addons that the splice needs and no others (all of them cost a third of the
CPU), told over standard input what to do, and telling over standard output what happens; one JSON object a line.

In: first what `mitm.LLMShield` is made of, with `mode`, `confdir` and `drain_s`; then `{"gateway": true|false}`, with
`silent_s` where it is there and does not answer, and `{"alive": true}`; the end of the input ends the process. Out:
`{"listening": [[host, port], ...]}`, or `{"failed": why}` with exit status 4 (5: no capture); then once a second what was
counted: `{"counts": [[how, host, client, number], ...]}`, and `{"alive": true}` each time it is asked. SIGTERM takes no
more clients and lets those that are here finish, `drain_s` seconds at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitmproxy.addons.block import Block
from mitmproxy.addons.core import Core
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.master import Master
from mitmproxy.options import Options

if TYPE_CHECKING:
    from llmshield_addons.llmshield_captured import LOGGER, Over
    from llmshield_addons.llmshield_words import speak_json
    from llmshield_addons.mitm import LLMShield
else:
    from llmshield_captured import LOGGER, Over
    from llmshield_words import speak_json
    from mitm import LLMShield

_BUSY, _UNCAPTURED = 4, 5
_TELL_S = 1.0
_CAPTURE_S = 2.0


def say(**said: Any) -> None:
    """One line for whoever started us."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


async def run() -> int:
    """Serve until SIGTERM or the end of the input; the exit status."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    lines = asyncio.StreamReader(limit=2**22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    said = json.loads(await lines.readline())
    master = Master(Options(confdir=said["confdir"], mode=said["mode"]))
    shield, server = LLMShield(said), Proxyserver()
    # Ours before those that would choose. Block refuses clients with public addresses: this is no open proxy.
    master.addons.add(Core(), Block(), shield, server, NextLayer(), TlsConfig())
    master.options.update(connection_strategy="lazy", upstream_cert=False)
    if said.get("roots"):
        master.options.update(ssl_verify_upstream_trusted_ca=said["roots"])
    speak_json()
    stop, uncaptured = asyncio.Event(), asyncio.Event()

    def end() -> None:
        uncaptured.set()
        stop.set()

    logging.getLogger(LOGGER).addHandler(Over(lambda: loop.call_soon_threadsafe(end)))
    if not await server.setup_servers():
        say(failed="; ".join(str(each.last_exception) for each in server.servers if each.last_exception))
        return _BUSY
    await master.running()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    if said["mode"][0].startswith("local"):  # the capture comes up by itself, and fails by itself
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _CAPTURE_S)
        if uncaptured.is_set():
            say(failed="mitmproxy's capture has ended; what it said is above")
            return _UNCAPTURED
    say(listening=[list(address[:2]) for address in server.listen_addrs()])
    orphaned = asyncio.Event()

    async def obey() -> None:
        while line := await lines.readline():
            told = json.loads(line)
            if "gateway" in told:
                shield.gateway_is(told["gateway"], told.get("silent_s", 0.0))
            if "alive" in told:
                say(alive=True)
        orphaned.set()
        stop.set()

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TELL_S)
            tell_counts(shield)

    tasks = [loop.create_task(obey()), loop.create_task(tell())]
    await stop.wait()
    await server.servers.update([])
    until = loop.time() + (0 if orphaned.is_set() else said["drain_s"])
    while server.connections and loop.time() < until:
        for name in shield.waiting & server.connections.keys():
            server.connections[name].close_connection(server.connections[name].client)
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    tell_counts(shield)
    await master.done()
    if orphaned.is_set():  # nobody else takes the signing key away
        folder = Path(said["confdir"])
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
    return _UNCAPTURED if uncaptured.is_set() else 0


def tell_counts(shield: LLMShield) -> None:
    """What was counted since the last time."""
    counts, shield.counts = shield.counts, {}
    if counts:
        say(counts=[[*key, number] for key, number in counts.items()])


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.exit(asyncio.run(run()))
