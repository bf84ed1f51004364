"""Starting and stopping: in a loop, in a thread, as a program; refusing connections; TLS."""

import asyncio
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llmshield.simulator import FAULTS, Directives, Simulator, SimulatorThread, manual


async def test_refusing_and_accepting_again(start, ask):
    sim = await start()
    port = sim.port
    await sim.refuse()
    with pytest.raises(ConnectionRefusedError):
        await ask(sim, wait=1)
    await sim.accept()

    assert port == sim.port
    assert (await ask(sim, wait=1)).status == 200


async def test_waiting_for_calls_to_be_over(start, ask):
    sim = await start(delay=0.005)
    asking = asyncio.ensure_future(ask(sim, stream=True, wait=2))
    (call,) = await sim.wait(1)

    assert call.finished
    assert (await asking).events()[-1] == "[DONE]"
    with pytest.raises(TimeoutError):
        await sim.wait(2, timeout_s=0.01)


async def test_stopping_closes_what_is_open():
    async with Simulator(fault="silence") as sim:
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(0.05)

        assert sim.open_connections == 1
    assert await reader.read() == b""
    assert sim.open_connections == 0
    writer.close()


def get(sim, path="/v1/models"):
    connection = http.client.HTTPConnection("127.0.0.1", sim.port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_thread_of_its_own():
    with SimulatorThread(require_key="k") as sim:
        assert get(sim) == 401
        sim.set(require_key=None)
        assert get(sim) == 200
        sim.refuse()
        with pytest.raises(ConnectionRefusedError):
            get(sim)
        sim.accept()
        assert get(sim) == 200
        assert [c.status for c in sim.wait(3)] == [401, 200, 200]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_a_program(number):
    code = (
        "from llmshield.simulator import run; run(port=0, name='p', ready=lambda url: print(url, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ) as process:
        url = process.stdout.readline().decode().strip()
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
        connection.request("GET", "/__sim__/health")
        found = json.loads(connection.getresponse().read())
        process.send_signal(number)

        assert process.wait(5) == 0
    connection.close()
    assert found == {"ok": True, "name": "p", "calls": 0}


async def test_tls(start, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = tmp_path / "c.pem"
    certificate.write_bytes(
        made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    sim = await start(tls=context)
    trust = ssl.create_default_context(cafile=str(certificate))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", sim.port, ssl=trust, server_hostname="localhost"
    )
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")

    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert sim.url.startswith("https://127.0.0.1:")
    writer.close()


def test_the_manual_has_every_fault_and_directive():
    page = manual()

    for name in FAULTS:
        assert f"\n    {name} " in page
    for name in Directives.__dataclass_fields__:
        assert name in page.partition("\nDirectives (")[2].partition("\nFaults\n")[0]
