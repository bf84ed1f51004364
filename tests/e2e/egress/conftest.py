"""The transparent mount as a service meets it that nobody has touched: its own SDK, its own key, a proxy variable and
a CA. Real mitmproxy, real TLS on both sides; the provider stands behind `connect:`, or at the other end of a cable."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import llmshield
from llmshield.egress import accounts, interpreter
from llmshield.egress.accounts import Account
from llmshield.egress.ca import Store
from llmshield.simulator import Simulator

HOSTS = (
    "api.openai.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "api.mistral.ai",
    "other.example",
)
PLUGIN = '''
"""Fails in the way that the prompt names."""
import asyncio

from llmshield.hookspecs import Plugin


class Broken(Plugin):
    async def pre_request(self, call):
        said = " ".join(text.value for text in call.texts)
        if "raise" in said:
            raise RuntimeError("broken on purpose")
        if "hang" in said:
            await asyncio.sleep(60)
        if "garbage" in said:
            return 7
        return None
'''
POLICY = """
version: 1
server: {{store: "memory://", debug_headers: true}}
defaults: {{timeout: 500ms}}
providers:
  openai: {{dialect: openai, connect: "127.0.0.1:{tls}"}}
  sealed: {{dialect: openai, base_url: "https://api.openai.com/v1", connect: "127.0.0.1:{tls}", api_key: "env://EGRESS_KEY"}}
  anthropic: {{dialect: anthropic, connect: "127.0.0.1:{tls}"}}
  gemini: {{dialect: gemini, connect: "127.0.0.1:{tls}"}}
  backup: {{dialect: anthropic, base_url: "{backup}", api_key: "env://EGRESS_KEY"}}
routes:
  - {{match: {{model: "fails-over*"}}, to: [openai, {{provider: backup, model: claude-b}}], retry: {{attempts: 1}}}}
  - {{match: {{model: "claude-*"}}, to: [anthropic]}}
  - {{match: {{any: true}}, to: [openai], retry: {{attempts: 1}}}}
plugins:
  - {{use: ./broken.py}}
  - {{use: failover}}
egress:
  hosts: {{api.openai.com: openai, swapped.test: sealed, api.anthropic.com: anthropic, generativelanguage.googleapis.com: gemini,
          closed.test: openai}}
  ports: [80, 443, {tls}, {plain}]
"""


class Provider:
    """A simulator, and a TLS front that shows certificates of a root of this test for every host."""

    def __init__(self, folder: Path) -> None:
        self.roots = folder / "roots.pem"
        self.sim = Simulator(name="primary")
        self.port = 0
        self.plain = 0
        self.bytes = 0
        """Bytes that reached it."""
        self._context = self._made(folder)

    def forget(self) -> None:
        """What it was asked and told so far."""
        self.sim.reset()
        self.bytes = 0

    def _made(self, folder: Path) -> ssl.SSLContext:
        now, name = datetime.datetime.now(datetime.UTC), x509.NameOID.COMMON_NAME
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(name, "root of the providers")])

        def build(subject: x509.Name, public: Any, *more: tuple[Any, bool]) -> x509.Certificate:
            made = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(issuer)
                .public_key(public.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=9))
            )
            for extension, critical in more:
                made = made.add_extension(extension, critical)
            return made.sign(root_key, hashes.SHA256())

        ski = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
        aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
        usage = dict.fromkeys(
            ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
             "encipher_only", "decipher_only", "digital_signature"], False,
        )  # fmt: skip
        root = build(issuer, root_key, (x509.BasicConstraints(ca=True, path_length=None), True), (ski, False),
                     (x509.KeyUsage(key_cert_sign=True, **usage), True))  # fmt: skip
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
        leaf = build(
            x509.Name([x509.NameAttribute(name, "provider")]), key, (names, False), (aki, False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
        )  # fmt: skip
        self.roots.write_bytes(root.public_bytes(serialization.Encoding.PEM))
        pair = folder / "pair.pem"
        pair.write_bytes(
            leaf.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair)
        return context

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        live: set[asyncio.Task[Any]] = set()

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool) -> None:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while data := await reader.read(65536):
                    if count:
                        self.bytes += len(data)
                    writer.write(data)
                    await writer.drain()
            writer.transport.abort() if count else writer.close()

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection("127.0.0.1", int(self.sim.url.rpartition(":")[2]))
            tasks = [
                asyncio.create_task(pipe(reader, there[1], count=True)),
                asyncio.create_task(pipe(there[0], writer, count=False)),
            ]
            live.update(tasks)
            await asyncio.wait(tasks)

        async with self.sim:
            server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=self._context)
            self.port = server.sockets[0].getsockname()[1]
            self.plain = int(self.sim.url.rpartition(":")[2])
            yield
            server.close()
            for task in live:
                task.cancel()
            await asyncio.gather(*live, return_exceptions=True)

    async def web(self, routes: list[Any], port: int = 0) -> tuple[aiohttp.web.AppRunner, int]:
        """An app of the test's own behind the same certificate."""
        app = aiohttp.web.Application()
        app.add_routes(routes)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", port, ssl_context=self._context)
        await site.start()
        assert site._server is not None
        return runner, site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]


Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Provider, Simulator]]:
    """The provider, and the one that takes over from it."""
    made = Provider(tmp_path_factory.mktemp("provider"))
    async with made.served(), Simulator(name="spare") as spare:
        yield made, spare


@pytest.fixture
def provider(standing: tuple[Provider, Simulator]) -> Provider:
    """The provider, which remembers nothing of other tests."""
    standing[0].forget()
    return standing[0]


@pytest.fixture
def spare(standing: tuple[Provider, Simulator]) -> Simulator:
    """The one that takes over, which remembers nothing of other tests."""
    standing[1].reset()
    return standing[1]


@pytest.fixture(scope="module")
def start(
    egress: Any, standing: tuple[Provider, Simulator], tmp_path_factory: pytest.TempPathFactory
) -> Start:
    """`async with start(extra="  websocket: pass") as mount`: a run of its own; `folder`: where one was before."""
    provider, spare = standing

    @contextlib.asynccontextmanager
    async def started(
        *more: str, extra: str = "", loopback: str = "pass", folder: Path | None = None
    ) -> AsyncIterator[Any]:
        folder = folder or tmp_path_factory.mktemp("run")
        (folder / "broken.py").write_text(PLUGIN)
        text = POLICY.format(tls=provider.port, plain=provider.plain, backup=spare.url)
        text += f"  loopback: {loopback}\n{extra}"
        given = egress(text, folder, *more, SSL_CERT_FILE=str(provider.roots), EGRESS_KEY="sk-of-the-policy")
        mount = await asyncio.to_thread(given.__enter__)
        try:
            yield mount
        finally:
            await asyncio.to_thread(given.__exit__, None, None, None)

    return started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mount(start: Start) -> AsyncIterator[Any]:
    """A run that the tests of a file share."""
    async with start() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(mount: Any, client: Any) -> AsyncIterator[Any]:
    """A client of this mount: `http(host, path, body)`."""
    async with aiohttp.ClientSession() as session:
        yield client(session, mount)


@pytest.fixture(scope="session")
def client() -> Any:
    """`client(session, mount)(host, path, body)`: a call through a run's proxy."""

    def of(session: aiohttp.ClientSession, mount: Any) -> Any:
        def post(host: str, path: str, body: Any, **more: Any) -> Any:
            own = {"authorization": "Bearer sk-own", "anthropic-version": "2023-06-01"}
            headers = {**own, **more.pop("headers", {})}
            return session.post(
                f"https://{host}{path}",
                json=body,
                headers=headers,
                proxy=mount.proxy,
                ssl=mount.roots,
                **more,
            )

        return post

    return of


@pytest.fixture(scope="session")
def chat() -> Any:
    """`chat(text, model)`: the body of a request."""

    def body(text: str, model: str = "gpt-small", **more: Any) -> dict[str, Any]:
        return {"model": model, "max_tokens": 300, "messages": [{"role": "user", "content": text}], **more}

    return body


@pytest.fixture(scope="session")
def curl() -> Any:
    """`await curl(mount, ...)`: status and output."""

    async def ask(mount: Any, *words: str, roots: Any = None) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--max-time", "10", "-x", mount.proxy, "--cacert", str(roots or mount.bundle), *words,
            env={**os.environ, "NO_PROXY": ""}, stdout=-1, stderr=-1,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, (out + err).decode()

    return ask


@pytest.fixture(scope="session")
def over_http2() -> Any:
    """`await over_http2(mount, host, path, body)`: what a client gets that speaks nothing else. `meanwhile` is called
    when it has asked."""

    async def ask(
        mount: Any, host: str, path: str, body: Any, *, streams: int = 1, meanwhile: Callable[[], Any] = int
    ) -> list[dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            interpreter.find(), str(Path(__file__).parents[1] / "clients" / "http2.py"), stdin=-1, stdout=-1, stderr=-1,
            env=interpreter.clean(),
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        given = {"port": int(mount.proxy.rpartition(":")[2]), "roots": str(mount.bundle), "host": host, "path": path,
                 "body": json.dumps(body), "streams": streams}  # fmt: skip
        process.stdin.write(json.dumps(given).encode())
        process.stdin.close()
        assert await process.stdout.readline() == b"asked\n"
        meanwhile()
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        found: list[dict[str, Any]] = json.loads(out)
        return found

    return ask


@pytest.fixture(scope="session")
def provider_certificate() -> Callable[[Path], Path]:
    """A provider's certificate for all hosts, as one file with its key; `roots.pem` beside it trusts it."""
    return _certificate


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "provider of tests")])
    names = [x509.DNSName(host) for host in HOSTS]
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([*names, x509.IPAddress(ipaddress.ip_address("10.77.0.2"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "roots.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    path = folder / "provider.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture(scope="session")
def started() -> Callable[..., contextlib.AbstractContextManager[subprocess.Popen[bytes]]]:
    """`with started(words):` a program of ours that says `ready`."""
    return _started


@contextlib.contextmanager
def _started(words: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stdout=subprocess.PIPE, **options)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Space:
    """A namespace of network and mounts, alive as long as its process is. Only root makes one."""

    def __init__(self) -> None:
        script = "ip link set lo up && mount --make-rprivate / && echo ready && exec sleep 100000"
        self.process = subprocess.Popen(["unshare", "-nm", "sh", "-c", script], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def words(self, *words: str) -> list[str]:
        """A command for the inside."""
        return ["nsenter", "-t", str(self.process.pid), "-n", "-m", *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, whatever that is."""
        return subprocess.run(self.words(*words), capture_output=True, text=True, check=False, timeout=120)

    def do(self, *words: str) -> str:
        """The same; it has to go well."""
        done = self.run(*words)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def let_in(self, user: Account, *paths: Path) -> None:
        """Have a user reach these folders inside, whose way there may be closed to it (a home, pytest's own): the
        closed folder is covered by an open one that holds them alone."""
        for path in paths:
            while (closed := user.closed_out_of(str(path.resolve()))) is not None:
                behind = [each.resolve() for each in paths if each.resolve().is_relative_to(closed)]
                script = (
                    "set -e; at=$(mktemp -d); closed=$1; shift; n=0; for each; do n=$((n+1)); mkdir $at/$n; "
                )
                script += "mount --bind $each $at/$n; done; mount -t tmpfs -o mode=755 tmpfs $closed; n=0; for each; do "
                script += "n=$((n+1)); mkdir -p $each; mount --bind $at/$n $each; umount $at/$n; rmdir $at/$n; done; rmdir $at"
                self.do("sh", "-c", script, "sh", str(closed), *map(str, behind))
                if self.closes(user, path):
                    pytest.skip(f"{closed} can't be opened for uid {user.uid} in a namespace")
                break

    def closes(self, user: Account, path: Path) -> bool:
        """Whether a user can't look into a folder, inside."""
        ids = ["--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups"]
        return self.run("setpriv", *ids, "ls", str(path)).returncode != 0

    def end(self) -> None:
        _end(self.process)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@dataclasses.dataclass
class Run:
    """`llmshield egress run` in a namespace."""

    space: Space
    process: subprocess.Popen[bytes]
    log: Path
    admin: str

    def wait_healthy(self, seconds: float = 60.0) -> None:
        """Until all of it is up."""
        until = time.monotonic() + seconds
        while self.health() != "200":
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def health(self) -> str:
        """The status of /healthz; 000 where nobody listens."""
        return self.space.run(
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{self.admin}/healthz"
        ).stdout

    def children(self) -> dict[str, int]:
        """The process ids of `gateway` and `proxy`."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        names = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in text.split()}
        return {"proxy" if "mitm_run" in line else "gateway": pid for pid, line in names.items()}

    def users(self) -> dict[str, dict[str, Any]]:
        """Who its processes are: uids, gids (real, effective, saved, of files), groups, capabilities."""
        found = {}
        for name, pid in self.children().items():
            lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            found[name] = {
                **{each: [int(word) for word in lines[each.title()].split()] for each in ("uid", "gid")},
                "groups": [int(word) for word in lines["Groups"].split()],
                "capabilities": int(lines["CapEff"], 16) | int(lines["CapPrm"], 16),
            }
        return found


class Cable:
    """Two namespaces with a cable between them: clients, proxy and rules in `near`, the provider in `far`.

    Proxy and gateway run as USER, who can reach nothing of root's: `shield` is the command that it can run.
    """

    USER, LISTEN, ADMIN, CONTROL = 48_213, "127.0.0.1:8080", "127.0.0.1:9787", 9000
    NEAR, FAR = "10.77.0.1", "10.77.0.2"

    def __init__(self, folder: Path) -> None:
        self.folder, self.near, self.far = folder, Space(), Space()
        self.shield = [sys.executable, "-m", "llmshield", "egress"]
        self.near.do("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns",
                     str(self.far.process.pid))  # fmt: skip
        for space, address in ((self.near, self.NEAR), (self.far, self.FAR)):
            space.do("ip", "addr", "add", f"{address}/24", "dev", "cable")
            space.do("ip", "link", "set", "cable", "up")
        account = accounts.find(str(self.USER))
        assert account is not None
        code = "import sys; print(sys.prefix, sys.base_prefix, sep='\\n')"
        mitmproxy = subprocess.run(
            [interpreter.find(), "-c", code], capture_output=True, text=True, check=True
        )
        paths = {Path(sys.prefix), Path(sys.base_prefix), *map(Path, mitmproxy.stdout.split()),
                 Path(llmshield.__file__).parents[1], *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(":")))}  # fmt: skip
        self.near.let_in(account, folder, *sorted(paths))

    def resolves(self, *hosts: str) -> None:
        """Inside, these names are the provider's address."""
        file = self.folder / "hosts"
        known = file.exists()
        file.write_text("127.0.0.1 localhost\n" + "".join(f"{self.FAR} {host}\n" for host in hosts))
        if not known:
            self.near.do("mount", "--bind", str(file), "/etc/hosts")

    @contextlib.contextmanager
    def provider(self, hosts: tuple[str, ...], *others: str) -> Iterator[Space]:
        """The simulator behind TLS, in `far`, under these names."""
        self.resolves(*hosts, *others)
        words = [sys.executable, str(Path(__file__).parents[1] / "clients" / "provider.py"), "0.0.0.0", "443",
                 str(self.CONTROL), "--tls", str(_certificate(self.folder))]  # fmt: skip
        with _started(self.far.words(*words)):
            yield self.far

    @contextlib.contextmanager
    def run(
        self, policy: str, hosts: tuple[str, ...], *more: str, mode: str = "transparent"
    ) -> Iterator[Run]:
        """A run as USER, not waited for."""
        (self.folder / "policy.yaml").write_text(policy)
        Store(self.folder / "ca").init(hosts)
        user = ["--uid", str(self.USER)] if mode != "local" else []
        words = [*self.shield, "run", "--policy", str(self.folder / "policy.yaml"), "--ca", str(self.folder / "ca"), "--mode",
                 mode, "--listen", self.LISTEN, "--admin", self.ADMIN, *user, *more]  # fmt: skip
        trusting = {**os.environ, "SSL_CERT_FILE": str(self.folder / "roots.pem")}
        with (self.folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(self.near.words(*words), stdout=log, stderr=log, env=trusting)
            try:
                yield Run(self.near, process, self.folder / "log.txt", self.ADMIN)
            finally:
                _end(process)


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    """Two namespaces; skipped where they can't be made."""
    tools = [tool for tool in ("nft", "ip", "unshare", "nsenter", "setpriv") if shutil.which(tool) is None]
    if sys.platform != "linux" or os.geteuid() != 0 or tools:
        pytest.skip(f"namespaces and rules need Linux and root{', and ' + ', '.join(tools) if tools else ''}")
    try:
        interpreter.find()
    except interpreter.NoMitmproxy:
        pytest.skip("no mitmproxy here; `make egress` sets it up")
    folder = Path(tempfile.mkdtemp(prefix="llmshield-cable-"))
    folder.chmod(0o755)
    made = Cable(folder)
    try:
        yield made
    finally:
        made.near.end()
        made.far.end()
        shutil.rmtree(folder)
