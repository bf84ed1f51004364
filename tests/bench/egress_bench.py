"""What the transparent mount costs: CPU a call above the sidecar's own, other traffic's p99 while policies compute, and
whether memory stays flat. Real processes on this machine; the client and the provider are not counted.

    python tests/bench/egress_bench.py                  all figures (ten minutes on two cores)
    python tests/bench/egress_bench.py --quick          a tenth of the calls
    python tests/bench/egress_bench.py cpu first p99 memory bodies     some of them
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from llmshield.egress.ca import Store

CLIENTS = 16
PLAIN = """
version: 1
server: {{store: "memory://", limits: {{body: 16MiB}}, paths: [{{match: "/v1/files/*", action: pass}}]}}
defaults: {{timeout: 30s}}
providers: {{openai: {{dialect: openai, base_url: "http://127.0.0.1:{provider}/v1"}}}}
routes: [{{match: {{any: true}}, to: [openai]}}]
{plugins}
egress: {{hosts: {{api.openai.com: openai}}, ports: [80, 443, {front}, {provider}], loopback: pass}}
"""
HEAVY = "plugins: [{use: injection, mode: monitor}, {use: pii, mode: monitor}]"
_TICK = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss_mb(pid: int, peak: bool = False) -> float:
    """Megabytes of memory that are resident, now or at the most."""
    name = "VmHWM" if peak else "VmRSS"
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


def fds(pid: int) -> int:
    """Open files."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def process(*command: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen([sys.executable, *command], stdin=subprocess.DEVNULL, **more)
    try:
        yield made
    finally:
        made.terminate()
        made.wait(40)


def until_open(port: int, path: str = "") -> None:
    """Wait for a port, or for 200 at a path of it."""
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
            if not path:
                return
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
            if b" 200 " in sock.recv(64):
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing came up on port {port}")


class Mount:
    """A run of `llmshield egress`, and a sidecar with the same policy."""

    def __init__(self, folder: Path, provider: int, front: int, plugins: str = "") -> None:
        self.folder, self.port, self.admin = folder, free_port(), free_port()
        self.side, self.side_admin = free_port(), free_port()
        (folder / "policy.yaml").write_text(PLAIN.format(provider=provider, front=front, plugins=plugins))
        self.authority, _ = Store(folder / "ca").init(["api.openai.com"])
        self.trust = ssl.create_default_context(cafile=str(self.authority.folder / "root.crt"))

    @contextlib.contextmanager
    def running(self) -> Iterator[Mount]:
        log = (self.folder / "log.txt").open("wb")
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder), "LLMSHIELD_LOG_LEVEL": "error"}
        common = {"cwd": self.folder, "stdout": log, "stderr": log, "env": environment}
        run = ["-m", "llmshield", "egress", "run", "--ca", "ca", "--listen", f"127.0.0.1:{self.port}"]
        serve = ["-m", "llmshield", "serve", "--listen", f"127.0.0.1:{self.side}"]
        with process(*run, "--admin", f"127.0.0.1:{self.admin}", **common) as main:
            with process(*serve, "--admin", f"127.0.0.1:{self.side_admin}", **common) as sidecar:
                until_open(self.admin, "/healthz")
                until_open(self.side_admin, "/readyz")
                self.sidecar = sidecar.pid
                for each in Path("/proc").glob("[0-9]*"):
                    with contextlib.suppress(OSError):
                        if int((each / "stat").read_text().rpartition(")")[2].split()[1]) == main.pid:
                            name = "proxy" if "mitm_run" in (each / "cmdline").read_text() else "gateway"
                            setattr(self, name, int(each.name))
                yield self
        log.close()

    gateway = proxy = sidecar = 0


def request(text: str, stream: bool) -> bytes:
    body = json.dumps(
        {"model": "gpt-small", "stream": stream, "messages": [{"role": "user", "content": text}]}
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: api.openai.com\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


async def connect(mount: Mount) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """TLS to the provider's name, through the proxy."""
    reader, writer = await tunnel(mount, "api.openai.com:443")
    await writer.start_tls(mount.trust, server_hostname="api.openai.com")
    return reader, writer


async def tunnel(mount: Mount, to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", mount.port, limit=2**20)
    writer.write(f"CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head, head
    return reader, writer


async def answer(reader: asyncio.StreamReader) -> None:
    """Read one answer, by length or in chunks."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at >= 0:
        await reader.readexactly(int(lower[at + 15 :].split(b"\r\n", 1)[0]))
    else:
        await reader.readuntil(b"\r\n0\r\n\r\n")


async def calls(mount: Mount, number: int, said: bytes, *, through: bool, anew: bool = False) -> list[float]:
    """Seconds of each of so many calls, by 16 clients; `anew`: each on a connection of its own."""
    took: list[float] = []
    left = iter(range(number))

    async def one() -> None:
        reader = writer = None
        for _ in left:
            if writer is None:
                there = (
                    connect(mount)
                    if through
                    else asyncio.open_connection("127.0.0.1", mount.side, limit=2**20)
                )
                reader, writer = await there
            began = time.perf_counter()
            writer.write(said)
            assert reader is not None
            await answer(reader)
            took.append(time.perf_counter() - began)
            if anew:
                writer.transport.abort()
                writer = None
        if writer is not None:
            writer.transport.abort()

    await asyncio.gather(*[one() for _ in range(CLIENTS)])
    return took


async def cpu(mount: Mount, scale: float) -> None:
    """Milliseconds of CPU a call: proxy and gateway, against the sidecar with the same policy."""
    for name, said, number in (
        ("whole", request("hi", False), 8000),
        ("stream", request("a b c d", True), 3000),
    ):
        number = int(number * scale)
        rounds = []
        for _ in range(3):
            await calls(mount, 200, said, through=True)
            await calls(mount, 200, said, through=False)
            before = cpu_s(mount.proxy), cpu_s(mount.gateway)
            took = await calls(mount, number, said, through=True)
            after = cpu_s(mount.proxy), cpu_s(mount.gateway)
            own = cpu_s(mount.sidecar)
            direct = await calls(mount, number, said, through=False)
            own = (cpu_s(mount.sidecar) - own) / number * 1000
            proxy, gateway = ((b - a) / number * 1000 for a, b in zip(before, after, strict=True))
            rounds.append(
                (
                    proxy + gateway - own,
                    proxy,
                    gateway,
                    own,
                    statistics.median(took),
                    statistics.median(direct),
                )
            )
        above, proxy, gateway, own, here, there = sorted(rounds)[1]
        print(f"cpu, {name}: {above:.2f} ms a call above the sidecar's own {own:.2f} (proxy {proxy:.2f}, gateway {gateway:.2f};"
              f" p50 with {CLIENTS} clients {here * 1000:.1f} ms, sidecar {there * 1000:.1f}); goal 0.60")  # fmt: skip


async def first(mount: Mount, provider: int, scale: float) -> None:
    """Time from the provider's first event to the client's first byte of it; provider and client share this process's
    clock. One stream at a time, and fifty."""
    sent: dict[int, float] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(
                    int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                )
                number = int(json.loads(body)["messages"][0]["content"])
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for text, finish in (("one", None), (" two", None), ("", "stop"), ("", "")):
                    delta = {"content": text} if text else {}
                    tree = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}  # fmt: skip
                    event = b"data: " + (json.dumps(tree).encode() if finish != "" else b"[DONE]") + b"\n\n"
                    await asyncio.sleep(0.03)
                    sent.setdefault(number, time.perf_counter())
                    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                writer.write(b"0\r\n\r\n")

    server = await asyncio.start_server(serve, "127.0.0.1", provider)
    numbers = iter(range(10**9))

    async def one(left: Iterator[int], took: list[float]) -> None:
        reader, writer = await connect(mount)
        for _ in left:
            number = next(numbers)
            writer.write(request(str(number), True))
            await reader.readuntil(b'"one"')
            took.append(time.perf_counter() - sent[number])
            await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.transport.abort()

    for parallel, total in ((1, 300), (50, 3000)):
        await asyncio.gather(*[one(iter(range(2)), []) for _ in range(parallel)])
        took: list[float] = []
        left = iter(range(int(total * scale)))
        await asyncio.gather(*[one(left, took) for _ in range(parallel)])
        cuts = statistics.quantiles(took, n=100)
        print(f"first byte behind the provider's, {parallel} at a time: p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms,"
              f" worst {max(took) * 1000:.1f} ms of {len(took)}; goal 50 ms")  # fmt: skip
    server.close()


async def p99(mount: Mount, front: int, scale: float) -> None:
    """p99 of a small exchange with an unlisted host, with nothing else going on and while policies compute."""
    trust = ssl._create_unverified_context()
    reader, writer = await tunnel(mount, f"localhost:{front}")
    await writer.start_tls(trust, server_hostname="localhost")

    async def pings(number: int) -> float:
        took = []
        for _ in range(number):
            began = time.perf_counter()
            writer.write(b"p" * 64)
            await reader.readexactly(64)
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.002)
        return statistics.quantiles(took, n=100)[98] * 1000

    number = int(3000 * scale)
    quiet = await pings(number)
    script = ("import asyncio,sys; sys.path.insert(0, sys.argv[1]); import egress_bench as b\n"
              "asyncio.run(b.load(*sys.argv[2:]))")  # fmt: skip
    with process(
        "-c", script, str(Path(__file__).parent), str(mount.port), str(mount.authority.folder / "root.crt")
    ):
        await asyncio.sleep(3)
        began = cpu_s(mount.gateway), time.monotonic()
        busy = await pings(number)
        share = (cpu_s(mount.gateway) - began[0]) / (time.monotonic() - began[1])
    writer.transport.abort()
    print(f"p99 of other traffic: {quiet:.2f} ms alone, {busy:.2f} ms while the gateway computes ({share:.0%} of a core):"
          f" x {busy / quiet:.1f}; goal x 2.0")  # fmt: skip


async def load(port: str, roots: str) -> None:
    """Long prompts for the gateway, one after the other, until killed."""
    mount: Any = type("There", (), {"port": int(port), "trust": ssl.create_default_context(cafile=roots)})
    reader, writer = await connect(mount)
    said = request("The river ran by the old mill, and ada@example.com wrote to Bob. " * 300, False)
    while True:
        writer.write(said)
        await answer(reader)


async def memory(mount: Mount, scale: float) -> None:
    """Memory and open files of proxy and gateway over many calls and many connections."""
    said = request("hi", False)
    for name, number, anew in (("calls", 20_000, False), ("new connections", 10_000, True)):
        number = int(number * scale)
        await calls(mount, max(2000, number // 5), said, through=True, anew=anew)  # allocators settle
        before = {
            each: (rss_mb(getattr(mount, each)), fds(getattr(mount, each))) for each in ("proxy", "gateway")
        }
        await calls(mount, number, said, through=True, anew=anew)
        await asyncio.sleep(1.0)
        for each, (mb, files) in before.items():
            pid = getattr(mount, each)
            print(
                f"memory over {number} {name}: {each} {mb:.1f} -> {rss_mb(pid):.1f} MB, {files} -> {fds(pid)} files; goal + 5 MB"
            )


async def bodies(mount: Mount, big: int, scale: float) -> None:
    """Peak of memory while 300 MB come through to a client that takes 60 MB/s."""
    size = int(300e6 * scale)
    for name, to in (("other host", f"localhost:{big}"), ("listed host, a path that passes", "")):
        before = {each: rss_mb(getattr(mount, each)) for each in ("proxy", "gateway")}
        if to:
            reader, writer = await tunnel(mount, to)
        else:
            reader, writer = await connect(mount)
        writer.write(
            f"GET /v1/files/{size} HTTP/1.1\r\nhost: {'localhost' if to else 'api.openai.com'}\r\n\r\n".encode()
        )
        got, peak = 0, dict.fromkeys(before, 0.0)
        while got < size:
            data = await reader.read(2**20)
            assert data, f"{got} of {size}"
            got += len(data)
            await asyncio.sleep(len(data) / 60e6)
            for each in peak:
                peak[each] = max(peak[each], rss_mb(getattr(mount, each)))
        writer.transport.abort()
        grown = ", ".join(f"{each} + {max(0.0, peak[each] - before[each]):.0f} MB" for each in peak)
        print(f"a body of {size / 1e6:.0f} MB, {name}: {grown}; goal + 50 MB")


@contextlib.asynccontextmanager
async def echo(folder: Path) -> AsyncIterator[int]:
    """A TLS server of nobody's that says back what it is told."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9",
         "-subj", "/CN=localhost", "-keyout", folder / "echo.key", "-out", folder / "echo.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "echo.crt", folder / "echo.key")

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()

    server = await asyncio.start_server(say, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def flood(port: int) -> asyncio.Server:
    """A provider of long bodies: GET /v1/files/SIZE."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            size = int((await reader.readuntil(b"\r\n\r\n")).split()[1].rpartition(b"/")[2])
            writer.write(
                f"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {size}\r\n\r\n".encode()
            )
            part = b"x" * 2**16
            while size > 0:
                writer.write(part[:size])
                size -= len(part)
                await writer.drain()
        writer.close()

    return await asyncio.start_server(send, "127.0.0.1", port)


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=[], help="cpu, first, p99, memory, bodies")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    what, scale = given.what or ["cpu", "first", "p99", "memory", "bodies"], 0.1 if given.quick else 1.0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        provider = free_port()
        async with echo(root) as front:
            if {"cpu", "memory", "p99"} & set(what):
                with process(
                    "-m",
                    "llmshield",
                    "simulate",
                    "--listen",
                    f"127.0.0.1:{provider}",
                    stdout=subprocess.DEVNULL,
                ):
                    until_open(provider)
                    if {"cpu", "memory"} & set(what):
                        (root / "plain").mkdir()
                        with Mount(root / "plain", provider, front).running() as mount:
                            if "cpu" in what:
                                await cpu(mount, scale)
                            if "memory" in what:
                                await memory(mount, scale)
                    if "p99" in what:
                        (root / "heavy").mkdir()
                        with Mount(root / "heavy", provider, front, HEAVY).running() as mount:
                            await p99(mount, front, scale)
            if "first" in what:
                (root / "first").mkdir()
                answering = free_port()
                with Mount(root / "first", answering, front).running() as mount:
                    await first(mount, answering, scale)
            if "bodies" in what:
                (root / "bodies").mkdir()
                big = free_port()
                server = await flood(big)
                with Mount(root / "bodies", big, front).running() as mount:
                    await bodies(mount, big, scale)
                server.close()


if __name__ == "__main__":
    asyncio.run(main())
