"""The transparent mount as a service meets it that nobody has touched: its own SDK, its own key, a proxy variable and
a CA. Real mitmproxy, real TLS on both sides; the provider stands behind `connect:`."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import signal
import ssl
import sys
import time
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
from llmshield.testing import gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    made = Provider(tmp_path_factory.mktemp("provider"))
    async with made.served():
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def spare() -> AsyncIterator[Simulator]:
    async with Simulator(name="spare") as sim:
        yield sim


Start = Callable[..., contextlib.AbstractAsyncContextManager[Any]]


@pytest.fixture(scope="module")
def start(
    egress: Any, provider: Provider, spare: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Start:
    """`async with start(extra="  websocket: pass") as mount`: a run of its own."""

    @contextlib.asynccontextmanager
    async def started(*more: str, extra: str = "", plugins: str = "") -> AsyncIterator[Any]:
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
    async with start() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(mount: Any) -> AsyncIterator[Any]:
    """A client of this mount: `http(host, path, body)`."""
    async with aiohttp.ClientSession() as session:
        yield client(session, mount)


def client(session: aiohttp.ClientSession, mount: Any) -> Any:
    def post(host: str, path: str, body: Any, **more: Any) -> Any:
        headers = {
            "authorization": "Bearer sk-own",
            "anthropic-version": "2023-06-01",
            **more.pop("headers", {}),
        }
        return session.post(
            f"https://{host}{path}", json=body, headers=headers, proxy=mount.proxy, ssl=mount.roots, **more
        )

    return post


def chat(text: str, model: str = "gpt-small", **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 300, "messages": [{"role": "user", "content": text}], **more}


def fresh(provider: Provider, spare: Simulator) -> None:
    for sim in (provider.sim, spare):
        sim.reset()
    provider.bytes = 0


# -- clients that nobody has touched --------------------------------------------------------------------------------

OPENAI = """
import openai
client = openai.OpenAI(max_retries=0)
said = client.chat.completions.create(model="gpt-small", messages=[{"role": "user", "content": "tide"}])
parts = client.chat.completions.create(model="gpt-small", messages=[{"role": "user", "content": "tide"}], stream=True)
print(said.choices[0].message.content)
print("".join(part.choices[0].delta.content or "" for part in parts if part.choices))
try:
    client.chat.completions.create(model="gpt-small", messages=[{"role": "user", "content": "raise"}])
except openai.InternalServerError as error:
    print(error.status_code, error.code)
"""
ANTHROPIC = """
import anthropic
client = anthropic.Anthropic(max_retries=0)
ask = dict(model="claude-small", max_tokens=300, messages=[{"role": "user", "content": "tide"}])
print(client.messages.create(**ask).content[0].text)
with client.messages.stream(**ask) as parts:
    print("".join(parts.text_stream))
try:
    client.messages.create(**{**ask, "messages": [{"role": "user", "content": "raise"}]})
except anthropic.APIStatusError as error:
    print(error.status_code, error.body["error"]["type"])
"""


@pytest.mark.parametrize(
    ("program", "refusal"),
    [(OPENAI, "500 policy_unavailable"), (ANTHROPIC, "500 api_error")],
    ids=["openai", "anthropic"],
)
async def test_an_sdk_with_proxy_and_ca_in_its_environment(
    mount: Any, provider: Provider, spare: Simulator, program: str, refusal: str
) -> None:
    fresh(provider, spare)
    environment = {
        **os.environ, "HTTPS_PROXY": mount.proxy, "SSL_CERT_FILE": str(mount.bundle), "OPENAI_API_KEY": "sk-own",
        "ANTHROPIC_API_KEY": "sk-own", "NO_PROXY": "",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    lines = out.decode().splitlines()

    assert process.returncode == 0, err.decode()
    assert lines[:2] == ["Hello, I am primary. You said: tide"] * 2
    assert lines[2] == refusal
    assert len(provider.sim.calls) == 2
    for call in provider.sim.calls:
        assert "sk-own" in (call.header("authorization") or call.header("x-api-key") or "")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_curl(mount: Any, provider: Provider, spare: Simulator, streamed: bool) -> None:
    fresh(provider, spare)
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", "https://api.openai.com/v1/chat/completions", "-H",
        "content-type: application/json", "-d", json.dumps(chat("tide", stream=streamed)),
        env={**os.environ, "HTTPS_PROXY": mount.proxy, "CURL_CA_BUNDLE": str(mount.bundle)}, stdout=-1, stderr=-1,
    )  # fmt: skip
    out, err = await process.communicate()

    assert process.returncode == 0, err
    assert (b"data: [DONE]" in out) is streamed
    assert len(provider.sim.calls) == 1


# -- whose key, which provider -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "key"), [("api.openai.com", "Bearer sk-own"), ("swapped.test", "Bearer sk-of-the-policy")]
)
async def test_keys(http: Any, provider: Provider, spare: Simulator, host: str, key: str) -> None:
    """A dummy key in the service is enough where the policy has one for the provider."""
    fresh(provider, spare)
    async with http(host, "/v1/chat/completions", chat("hi")) as reply:
        assert reply.status == 200

    assert [key] == [call.header("authorization") for call in provider.sim.calls]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", ["503", "500", "529", "fin", "cut", "html"])
async def test_another_provider_takes_over(
    http: Any, provider: Provider, spare: Simulator, fault: str, streamed: bool
) -> None:
    """From OpenAI to Anthropic, in OpenAI's words; the service's own key does not travel there."""
    fresh(provider, spare)
    provider.sim.set(fault=fault, after=0)
    async with http(
        "api.openai.com", "/v1/chat/completions", chat("hi", "fails-over", stream=streamed)
    ) as reply:
        body = await reply.read()

    assert (200, "backup") == (reply.status, reply.headers["x-llmshield-provider"])
    assert b"sk-own" not in b"".join(value.encode() for call in spare.calls for _, value in call.headers)
    assert (b"data: [DONE]" in body) is streamed


# -- streams -----------------------------------------------------------------------------------------------------


async def test_each_event_arrives_before_the_next_is_sent(start: Start, provider: Provider) -> None:
    """The provider sends an event only after the client has told (beside the stream) that it has the one before."""
    got: asyncio.Queue[int] = asyncio.Queue()
    late: list[float] = []
    sent_at: list[float] = []

    async def stream(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        answer = aiohttp.web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for n in range(20):
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
                {"index": 0, "delta": {"content": f"w{n} "}, "finish_reason": None}]}  # fmt: skip
            sent_at.append(time.monotonic())
            await answer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            async with asyncio.timeout(10):
                assert await got.get() == n
        chunk["choices"] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        await answer.write(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")
        return answer

    runner, port = await provider.web([aiohttp.web.post("/v1/chat/completions", stream)])
    saved, provider.port = provider.port, port
    try:
        async with start() as mount, aiohttp.ClientSession() as session:
            async with client(session, mount)(
                "api.openai.com", "/v1/chat/completions", chat("hi", stream=True)
            ) as reply:
                seen = b""
                async for part in reply.content.iter_any():
                    seen += part
                    while b'"w%d "' % len(late) in seen:
                        late.append(time.monotonic() - sent_at[len(late)])
                        got.put_nowait(len(late) - 1)
    finally:
        provider.port = saved
        await runner.cleanup()

    assert len(late) == 20
    assert b"[DONE]" in seen
    assert sorted(late)[len(late) // 2] < 0.05


async def test_a_client_that_leaves_is_told_to_the_provider(
    http: Any, provider: Provider, spare: Simulator
) -> None:
    fresh(provider, spare)
    provider.sim.set(delay="50ms", tokens=1000)
    async with http("api.openai.com", "/v1/chat/completions", chat("hi", stream=True)) as reply:
        await reply.content.readany()
        reply.close()
    left = time.monotonic()
    while not provider.sim.calls[0].disconnected:
        assert time.monotonic() - left < 5.0
        await asyncio.sleep(0.02)

    assert time.monotonic() - left < 1.0


async def test_a_stream_that_breaks_upstream_ends_with_an_error(
    http: Any, provider: Provider, spare: Simulator
) -> None:
    fresh(provider, spare)
    provider.sim.set(fault="cut", after=4)
    async with http("api.openai.com", "/v1/chat/completions", chat("hi", stream=True)) as reply:
        body = await reply.read()

    assert reply.status == 200
    assert b'"error"' in body
    assert b"[DONE]" not in body


H2 = """
import asyncio, json, ssl, sys, time
import h2.config, h2.connection, h2.events
given = json.loads(sys.stdin.read())

async def main():
    context = ssl.create_default_context(cafile=given["roots"])
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", given["port"])
    writer.write(b"CONNECT api.openai.com:443 HTTP/1.1\\r\\nhost: api.openai.com:443\\r\\n\\r\\n")
    await reader.readuntil(b"\\r\\n\\r\\n")
    await writer.start_tls(context, server_hostname="api.openai.com")
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    conn.initiate_connection()
    conn.increment_flow_control_window(2**24)
    began = time.monotonic()
    for _ in range(given["streams"]):
        at = conn.get_next_available_stream_id()
        conn.send_headers(at, [(":method", "POST"), (":scheme", "https"), (":authority", "api.openai.com"),
                               (":path", "/v1/chat/completions"), ("content-type", "application/json")])
        conn.send_data(at, given["body"].encode(), end_stream=True)
    writer.write(conn.data_to_send())
    status, first, done = {}, {}, {}
    while len(done) < given["streams"]:
        data = await asyncio.wait_for(reader.read(65536), 60)
        assert data, "closed"
        for event in conn.receive_data(data):
            at = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.ResponseReceived):
                status[at] = dict(event.headers)[b":status"].decode()
            elif isinstance(event, h2.events.DataReceived):
                first.setdefault(at, time.monotonic() - began)
                conn.acknowledge_received_data(event.flow_controlled_length, at)
            elif isinstance(event, h2.events.StreamEnded):
                done[at] = time.monotonic() - began
        writer.write(conn.data_to_send())
    print(json.dumps({"status": sorted(status.values()), "last_first": max(first.values()),
                      "first_done": min(done.values())}))

asyncio.run(main())
"""


async def test_streams_of_one_http2_connection_do_not_wait_for_each_other(
    mount: Any, provider: Provider, spare: Simulator
) -> None:
    """A client that speaks HTTP/2 only: fifty streams on one connection, all of them begun before the first has ended
    (mitmproxy by itself lets five through)."""
    fresh(provider, spare)
    provider.sim.set(delay="100ms", tokens=60)
    process = await asyncio.create_subprocess_exec(
        interpreter.find(), "-c", H2, stdin=-1, stdout=-1, stderr=-1, env=interpreter.clean()
    )
    given = {"port": int(mount.proxy.rpartition(":")[2]), "roots": str(mount.bundle), "streams": 50,
             "body": json.dumps(chat("hi", stream=True))}  # fmt: skip
    out, err = await process.communicate(json.dumps(given).encode())
    assert process.returncode == 0, err.decode()
    found = json.loads(out)

    assert ["200"] * 50 == found["status"]
    assert found["last_first"] < found["first_done"]


# -- what fails, fails closed and in the client's words ----------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "hang", "garbage"])
@pytest.mark.parametrize(
    ("host", "path"), [("api.openai.com", "/v1/chat/completions"), ("api.anthropic.com", "/v1/messages")]
)
async def test_a_plugin_that_fails(
    http: Any, provider: Provider, spare: Simulator, how: str, host: str, path: str
) -> None:
    fresh(provider, spare)
    model = "claude-small" if "anthropic" in host else "gpt-small"
    async with http(host, path, chat(how, model)) as reply:
        body = await reply.json()

    assert reply.status >= 500
    assert isinstance(body["error"]["message"], str)
    assert provider.bytes == 0
    assert provider.sim.calls == []


async def test_a_gateway_that_is_killed(start: Start, provider: Provider, spare: Simulator) -> None:
    """503 in the provider's words, at once; nothing goes upstream; then it is back, on its own."""
    async with start() as mount, aiohttp.ClientSession() as session:
        post = client(session, mount)
        async with post("api.openai.com", "/v1/chat/completions", chat("hi")) as reply:
            assert reply.status == 200
        fresh(provider, spare)
        os.kill(mount.children()["gateway"], signal.SIGSTOP)  # nobody answers, but the port is open
        os.kill(mount.children()["gateway"], signal.SIGKILL)
        asked, found = time.monotonic(), []
        while 200 not in found:
            assert time.monotonic() - asked < 60, found
            async with post("api.openai.com", "/v1/chat/completions", chat("hi")) as reply:
                found.append(reply.status)
                body = await reply.json()
                if reply.status != 200:
                    assert body["error"]["code"] == "gateway_unavailable"
                    assert reply.headers["retry-after"]
                    assert provider.bytes == 0
            async with post("api.anthropic.com", "/v1/messages", chat("hi", "claude-small")) as reply:
                body = await reply.json()
                if reply.status != 200:
                    assert body["type"] == "error"
                    assert provider.bytes == 0
        await asyncio.to_thread(mount.wait_healthy)

    assert found[0] == 503
    assert found[-1] == 200


async def test_a_gateway_that_dies_in_a_stream(start: Start, provider: Provider, spare: Simulator) -> None:
    """What was begun is cut, never ended as if it were whole."""
    fresh(provider, spare)
    provider.sim.set(delay="50ms", tokens=400)
    async with start() as mount, aiohttp.ClientSession() as session:
        post = client(session, mount)
        async with post("api.openai.com", "/v1/chat/completions", chat("hi", stream=True)) as reply:
            await reply.content.readany()
            os.kill(mount.children()["gateway"], signal.SIGKILL)
            with pytest.raises(aiohttp.ClientPayloadError):
                await reply.read()


async def test_without_a_gateway_hosts_pass_where_the_policy_says_so(
    start: Start, provider: Provider, spare: Simulator
) -> None:
    """`on_crash: bypass`: undecrypted, so the client sees the provider's own certificate."""
    fresh(provider, spare)
    theirs = ssl.create_default_context(cafile=str(provider.roots))
    async with start(extra="  on_crash: bypass\n") as mount, aiohttp.ClientSession() as session:
        (Path(mount.log.parent) / "policy.yaml").unlink()  # it can't come back
        os.kill(mount.children()["gateway"], signal.SIGKILL)
        while mount.health()[0] != 503:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        async with session.post(
            f"https://api.openai.com:{provider.port}/v1/chat/completions", json=chat("hi"), proxy=mount.proxy, ssl=theirs,
        ) as reply:  # fmt: skip
            assert reply.status == 200
        (Path(mount.log.parent) / "policy.yaml").write_text("version: 1\n")


async def test_a_proxy_that_is_killed_ends_the_run(start: Start) -> None:
    async with start() as mount:
        gateway = mount.children()["gateway"]
        os.kill(mount.children()["proxy"], signal.SIGKILL)
        status = await asyncio.to_thread(mount.process.wait, 40)

        assert status == 1
        assert "The proxy has ended" in mount.log.read_text()
        assert not Path(f"/proc/{gateway}").exists()
        assert mount.health()[0] == 0


async def test_a_run_that_is_killed_leaves_nobody(start: Start) -> None:
    async with start() as mount:
        children = mount.children()
        mount.process.kill()
        until = time.monotonic() + 40
        while any(Path(f"/proc/{pid}").exists() for pid in children.values()):
            assert time.monotonic() < until
            await asyncio.sleep(0.1)

    assert set(children) == {"gateway", "proxy"}


async def test_sigterm_lets_a_stream_end(start: Start, provider: Provider, spare: Simulator) -> None:
    fresh(provider, spare)
    provider.sim.set(delay="100ms", tokens=20)
    async with start() as mount, aiohttp.ClientSession() as session:
        post = client(session, mount)
        async with post("api.openai.com", "/v1/chat/completions", chat("hi", stream=True)) as reply:
            await reply.content.readany()
            mount.process.terminate()
            await asyncio.sleep(0.3)
            with pytest.raises(aiohttp.ClientError):
                await post("api.openai.com", "/v1/chat/completions", chat("more"))
            body = await reply.read()
        assert b"[DONE]" in body
        assert await asyncio.to_thread(mount.process.wait, 40) == 0


# -- everything else ---------------------------------------------------------------------------------------------


async def curl(mount: Any, *words: str, roots: Any = None) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "10", "-x", mount.proxy, "--cacert", str(roots or mount.bundle), *words,
        env={**os.environ, "NO_PROXY": ""}, stdout=-1, stderr=-1,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (out + err).decode()


async def test_other_hosts_pass_undecrypted(mount: Any, provider: Provider, spare: Simulator) -> None:
    """The client sees the other end's own certificate; here the name is an address of this machine."""
    fresh(provider, spare)
    to = f"localhost:{provider.port}"
    status, out = await curl(mount, "-k", "-v", "-H", "host: localhost", f"https://{to}/v1/models")

    assert status == 0, out
    assert "root of the providers" in out
    assert "llmshield" not in out.lower().replace("x-llmshield", "")


@pytest.mark.parametrize("extra", ["  unlisted: block\n", "  on_no_sni: block\n"])
async def test_what_the_policy_blocks(start: Start, provider: Provider, spare: Simulator, extra: str) -> None:
    fresh(provider, spare)
    host = "localhost" if "unlisted" in extra else "127.0.0.1"  # by an address, curl sends no SNI
    async with start(extra=extra) as mount:
        status, _ = await curl(mount, "-k", f"https://{host}:{provider.port}/v1/models")
        plain, out = await curl(mount, f"http://localhost:{provider.plain}/v1/models")

    assert status != 0
    assert (plain, "forbidden" in out) == (0, "unlisted" in extra)
    assert provider.bytes == 0


async def test_plain_http_to_a_listed_host_obeys_the_policy(
    mount: Any, provider: Provider, spare: Simulator
) -> None:
    fresh(provider, spare)
    said = ("-H", "content-type: application/json", "-d")
    good = await curl(mount, "http://api.openai.com/v1/chat/completions", *said, json.dumps(chat("tide")))
    bad = await curl(mount, "http://api.openai.com/v1/chat/completions", *said, json.dumps(chat("raise")))

    assert "You said: tide" in good[1]
    assert "policy_unavailable" in bad[1]
    assert len(provider.sim.calls) == 1


async def test_socks(start: Start, provider: Provider, spare: Simulator) -> None:
    fresh(provider, spare)
    said = ("-H", "content-type: application/json", "-d")
    async with start("--mode", "socks5") as mount:
        proxy = ("-x", mount.proxy.replace("http:", "socks5h:"))
        url = "https://api.openai.com/v1/chat/completions"
        good = await curl(mount, *proxy, url, *said, json.dumps(chat("tide")))
        bad = await curl(mount, *proxy, url, *said, json.dumps(chat("raise")))
        closed = await curl(mount, *proxy, "-k", "https://169.254.169.254/")

    assert "You said: tide" in good[1]
    assert "policy_unavailable" in bad[1]
    assert closed[0] != 0
    assert len(provider.sim.calls) == 1


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/", "https://localhost:22/", "https://localhost:25/", "ADMIN"]
)
async def test_where_nobody_is_connected_to(mount: Any, url: str) -> None:
    status, out = await curl(mount, "-k", url.replace("ADMIN", mount.admin.replace("http:", "https:")))

    assert status == 56
    assert "403" in out


async def test_a_client_that_does_not_know_our_authority(mount: Any, provider: Provider) -> None:
    status, _ = await curl(mount, "https://api.openai.com/v1/models", roots=provider.roots)
    until = time.monotonic() + 10
    wanted = 'llmshield_egress_connections_total{how="distrusted",host="api.openai.com"}'
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{mount.admin}/metrics") as reply:
                if wanted in await reply.text():
                    break
            assert time.monotonic() < until
            await asyncio.sleep(0.2)

    assert status == 60


@pytest.mark.parametrize("passes", [False, True])
async def test_websockets(start: Start, provider: Provider, passes: bool) -> None:
    async def echo(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        answer = aiohttp.web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_bytes(message.data)
        return answer

    runner, port = await provider.web([aiohttp.web.get("/v1/realtime", echo)])
    saved, provider.port = provider.port, port
    try:
        async with (
            start(extra="  websocket: pass\n" if passes else "") as mount,
            aiohttp.ClientSession() as session,
        ):
            asking = session.ws_connect(
                "wss://api.openai.com/v1/realtime", proxy=mount.proxy, ssl=mount.roots
            )
            if not passes:
                with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                    await asking
                assert raised.value.status in (400, 404, 501)
                return
            async with asking as socket:
                for size in (1, 100_000):
                    await socket.send_bytes(b"x" * size)
                    assert (await socket.receive_bytes()) == b"x" * size
    finally:
        provider.port = saved
        await runner.cleanup()


# -- hostile bytes: whatever the sidecar makes of them, so does this mount -----------------------------------------

BODY = json.dumps(chat("tide")).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: api.openai.com\r\ncontent-type: application/json\r\n"
SIZED = HEAD + b"content-length: %d\r\n" % len(BODY)
RAW: dict[str, bytes] = {
    "plain": SIZED + b"\r\n" + BODY,
    "chunks": HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "two at once": (SIZED + b"\r\n" + BODY) * 2,
    "two lengths": SIZED + b"content-length: 3\r\n\r\n" + BODY,
    "length and chunks": SIZED + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "a negative length": HEAD + b"content-length: -5\r\n\r\n" + BODY,
    "a bad chunk": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + BODY,
    "an unknown coding": HEAD + b"transfer-encoding: cow\r\n\r\n" + BODY,
    "a blank in a name": HEAD + b"x : y\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    "a folded header": HEAD + b"x: a\r\n b\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    "a bare line feed": SIZED.replace(b"\r\n", b"\n") + b"\n" + BODY,
    "no version": b"POST /v1/chat/completions\r\n\r\n",
    "another version": SIZED.replace(b"HTTP/1.1", b"HTTP/3.0") + b"\r\n" + BODY,
    "a long head": HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
    "two hosts": HEAD + b"host: evil.example\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    "an absolute target": SIZED.replace(b"/v1", b"https://evil.example/v1", 1) + b"\r\n" + BODY,
    "CONNECT": b"CONNECT api.openai.com:443 HTTP/1.1\r\nhost: api.openai.com\r\n\r\n",
    "an upgrade to h2c": SIZED + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n" + BODY,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a forged origin": b"LLMSHIELD/1 {}\r\n" + SIZED + b"\r\n" + BODY,
    "not HTTP": b"\x00\x01\x02\xff" * 20 + b"\r\n\r\n",
}  # fmt: skip


async def answers_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> list[bytes]:
    """The status lines that come back until the other end closes, or is silent."""
    got = b""
    with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
        writer.write(sent)
        async with asyncio.timeout(2.5):
            while data := await reader.read(65536):
                got += data
    writer.transport.abort()
    return [
        line
        for line in got.replace(b"}HTTP/1.1", b"}\r\nHTTP/1.1").split(b"\r\n")
        if line.startswith(b"HTTP/1.1 ")
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(provider: Provider) -> AsyncIterator[int]:
    """The same policy's sidecar; its providers are asked without TLS."""
    text = f'providers: {{openai: {{dialect: openai, base_url: "{provider.sim.url}/v1"}}}}\nserver: {{store: "memory://"}}'
    async with gateway(text) as (url, _):
        yield int(url.rpartition(":")[2])


@pytest.mark.parametrize("name", RAW)
async def test_hostile_bytes(
    mount: Any, sidecar: int, provider: Provider, spare: Simulator, name: str
) -> None:
    fresh(provider, spare)
    direct = await answers_of(*await asyncio.open_connection("127.0.0.1", sidecar), RAW[name])
    asked, provider.sim.calls[:] = [call.body for call in provider.sim.calls], []
    reader, writer = await asyncio.open_connection("127.0.0.1", int(mount.proxy.rpartition(":")[2]))
    writer.write(b"CONNECT api.openai.com:443 HTTP/1.1\r\nhost: api.openai.com:443\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await writer.start_tls(mount.roots, server_hostname="api.openai.com")
    through = await answers_of(reader, writer, RAW[name])

    assert direct == through
    assert asked == [call.body for call in provider.sim.calls]
