"""TLS to providers on real sockets: whose certificate counts, which name is sent, stalls, and what a cut looks like."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llmshield.dialects import WireRequest
from llmshield.errors import UpstreamError
from llmshield.transport import HttpTransport, Timeouts, roots_and_more

SOON = Timeouts(connect=0.5, first_token=0.7, idle=0.5, total=2.0)
POST = WireRequest("POST", "/chat", "", {}, b"{}")
HI = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\nhi"

Run = Callable[[Any], None]
Listening = Callable[..., contextlib.AbstractAsyncContextManager[int]]
Made = Callable[..., ssl.SSLContext]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    """A root, and what it signs: contexts of servers for a name, also expired or signed by nobody."""
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root of the tests")])

    def certificate(
        name: x509.Name, key: Any, signer: Any, issuer: x509.Name, days: int, *, alternative: Any = None
    ) -> x509.Certificate:
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=alternative is None, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if alternative is not None:
            made = made.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        else:
            usage = dict.fromkeys(
                [
                    "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
                    "encipher_only", "decipher_only", "digital_signature",
                ],
                False,
            )  # fmt: skip
            made = made.add_extension(x509.KeyUsage(key_cert_sign=True, **usage), critical=True)
        return made.sign(signer, hashes.SHA256())

    root = certificate(root_name, root_key, root_key, root_name, 9)
    roots = folder / "roots.pem"
    roots.write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def server(name: str, *, days: int = 9, own: bool = False) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        try:
            alternative: Any = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            alternative = x509.DNSName(name)
        signed = certificate(
            subject,
            key,
            key if own else root_key,
            subject if own else root_name,
            days,
            alternative=alternative,
        )
        path = folder / f"{name}-{days}-{own}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + signed.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context

    return roots, server


@contextlib.asynccontextmanager
async def pool(name: str, port: int) -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(f"https://{name}", connect=("127.0.0.1", port))
    try:
        yield transport
    finally:
        await transport.close()
        assert not transport._open


async def read(answer: Any) -> bytes:
    out = b""
    while data := await answer.chunk():
        out += data
    return out


async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(HI)


@pytest.mark.parametrize(
    ("wanted", "server", "trusted", "expected"),
    [
        ("api.example", {"name": "api.example"}, True, "hi"),
        ("api.example", {"name": "api.example"}, False, "TLS certificate"),
        ("api.example", {"name": "other.example"}, True, "TLS certificate"),
        ("api.example", {"name": "api.example", "own": True}, True, "TLS certificate"),
        ("api.example", {"name": "api.example", "days": -1}, True, "TLS certificate"),
        ("127.0.0.1", {"name": "127.0.0.1"}, True, "hi"),
        ("127.0.0.2", {"name": "127.0.0.1"}, True, "TLS certificate"),
        ("bücher.example", {"name": "xn--bcher-kva.example"}, True, "hi"),
        ("api.example.", {"name": "api.example"}, True, "hi"),
    ],
    ids=["good", "unknown-root", "wrong-name", "self-signed", "expired", "address", "wrong-address", "idn", "dot"],
)  # fmt: skip
def test_whose_certificate_counts(
    run: Run,
    listening: Listening,
    certificates: tuple[Path, Made],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    server: dict[str, Any],
    trusted: bool,
    expected: str,
) -> None:
    """`connect:` replaces the address alone: the name is sent and checked all the same. Roots: SSL_CERT_FILE."""
    roots, made = certificates
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    context = made(**server)
    names: list[str | None] = []
    context.sni_callback = lambda sock, name, context: names.append(name)

    async def scenario() -> None:
        async with listening(well, ssl=context) as port, pool(wanted, port) as transport:
            for _ in range(2):  # the second on the connection of the first
                try:
                    said = (await read(await transport.ask(POST, SOON))).decode()
                except UpstreamError as error:
                    said = str(error).removeprefix("No connection to the provider: ").removesuffix(".")
                assert expected == said
        if wanted[0].isalpha():
            assert names[0] == transport._host
        assert len(names) == (1 if expected == "hi" else 2)

    run(scenario())


def test_a_handshake_that_stalls_is_a_connect_and_its_socket_is_closed(
    run: Run, listening: Listening
) -> None:
    ended = asyncio.Event()

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        ended.set()

    async def scenario() -> None:
        async with listening(stalls) as port, pool("api.example", port) as transport:
            begun = time.monotonic()
            with pytest.raises(UpstreamError) as caught:
                await transport.ask(POST, SOON)
            assert "connect" == caught.value.reason
            assert time.monotonic() - begun < 1.5
            async with asyncio.timeout(1):
                await ended.wait()

            ended.clear()
            asking = asyncio.create_task(transport.ask(POST, SOON))
            await asyncio.sleep(0.1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            async with asyncio.timeout(1):
                await ended.wait()

    run(scenario())


def test_a_provider_that_speaks_no_tls_is_a_connect(run: Run, listening: Listening) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(65536)

    async def scenario() -> None:
        async with listening(plain) as port, pool("api.example", port) as transport:
            with pytest.raises(UpstreamError, match=r"connect|TLS"):
                await transport.ask(POST, SOON)

    run(scenario())


@pytest.mark.parametrize("polite", [True, False])
@pytest.mark.parametrize("data", [TO_THE_END, HI, HI[:-1]], ids=["to-the-end", "whole", "cut"])
def test_only_a_goodbye_inside_tls_ends_an_answer_without_a_length(
    run: Run,
    listening: Listening,
    certificates: tuple[Path, Made],
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    polite: bool,
) -> None:
    """RFC 9112, 9.8: whoever sits on the way can close the TCP connection, but not send a close_notify."""
    roots, made = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    context = made("api.example")

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0.03)
        if polite:
            writer.close()
            await asyncio.sleep(0.3)
        else:
            writer.transport.abort()  # a FIN, and no close_notify before it

    async def scenario() -> None:
        async with listening(closes, ssl=context) as port, pool("api.example", port) as transport:
            answer = await transport.ask(POST, SOON)
            assert b"h" == (await answer.chunk())[:1]
            if data == HI or (data == TO_THE_END and polite):
                assert b"" == await answer.chunk()
            else:
                with pytest.raises(UpstreamError) as caught:
                    await answer.chunk()
                assert "reset" == caught.value.reason

    run(scenario())


def test_a_client_that_reads_slowly_holds_tls_back_too(
    run: Run, listening: Listening, certificates: tuple[Path, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    roots, made = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 32000000\r\n\r\n")
        for _ in range(320):
            writer.write(b"a" * 100_000)
            await writer.drain()
            sent += 100_000
        await asyncio.sleep(5)

    async def scenario() -> None:
        async with listening(flood, ssl=made("api.example")) as port, pool("api.example", port) as transport:
            answer = await transport.ask(POST, Timeouts(1, 5, 5, 9))
            await asyncio.sleep(0.2)
            assert sent < 20_000_000
            taken = 0
            while data := await answer.chunk():
                taken += len(data)
            assert 32_000_000 == taken

    run(scenario())


def test_a_certificate_of_our_own_making_is_no_provider_s(
    run: Run, listening: Listening, certificates: tuple[Path, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a gateway whose traffic is redirected too would ask itself, for ever."""
    roots, made = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))

    async def scenario() -> None:
        async with listening(well, ssl=made("api.example")) as port:
            ours = HttpTransport(
                "https://api.example", connect=("127.0.0.1", port), not_by=roots.read_bytes()
            )
            other = HttpTransport("https://api.example", connect=("127.0.0.1", port), not_by=stranger())
            with pytest.raises(UpstreamError, match="No connection to the provider: TLS") as raised:
                await ours.ask(POST, SOON)
            assert raised.value.reason == "connect"
            assert not ours._open
            assert await read(await other.ask(POST, SOON)) == b"hi"
            await ours.close()
            await other.close()

    run(scenario())


def stranger() -> bytes:
    """A certificate that has signed nothing here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody else")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_roots_of_the_environment_are_added(
    certificates: tuple[Path, Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL by itself takes those of SSL_CERT_FILE or the system's, and all other providers would be lost."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    usual = Path(ssl.get_default_verify_paths().openssl_cafile)
    if not usual.is_file():
        pytest.skip("the system's roots are in no file here")
    before = {each["serialNumber"] for each in roots_and_more().get_ca_certs()}
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates[0]))
    after = {each["serialNumber"] for each in roots_and_more().get_ca_certs()}

    assert before < after
    assert len(after) == len(before) + 1
