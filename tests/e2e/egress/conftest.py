"""The transparent mount as a service meets it that nobody has touched: its own SDK, its own key, a proxy variable and
a CA. Real mitmproxy, real TLS on both sides; the provider stands behind `connect:`, or at the other end of a cable."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llmshield.egress import interpreter
from llmshield.simulator import Simulator

HOSTS = ("api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com", "other.example")
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
    """`async with start(extra="  websocket: pass") as mount`: a run of its own."""
    provider, spare = standing

    @contextlib.asynccontextmanager
    async def started(*more: str, extra: str = "") -> AsyncIterator[Any]:
        folder = tmp_path_factory.mktemp("run")
        (folder / "broken.py").write_text(PLUGIN)
        text = POLICY.format(tls=provider.port, plain=provider.plain, backup=spare.url) + extra
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
