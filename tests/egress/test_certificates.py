"""What the certificates are good for, judged by the programs that will judge them: OpenSSL, Python, curl, Node, Java."""

import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from llmshield.egress import trust
from llmshield.egress.ca import Store
from llmshield.egress.certificates import CaError, constraints, is_ours, issue, permitted, within

HOST, OTHER = "api.openai.com", "bank.example"
GOOD, BELOW, OUTSIDE, ADDRESS = "listed host", "below a wildcard's host", "other host", "address"
LEAVES = {
    GOOD: ([x509.DNSName(HOST)], HOST, True),
    BELOW: ([x509.DNSName("eu.openai.azure.com")], "eu.openai.azure.com", True),
    OUTSIDE: ([x509.DNSName(OTHER)], OTHER, False),
    "other beside listed": ([x509.DNSName(HOST), x509.DNSName(OTHER)], OTHER, False),
    "longer label": ([x509.DNSName("xapi.openai.com")], "xapi.openai.com", False),
    ADDRESS: ([x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], HOST, False),
}
"""What stands in a leaf, the name that a client asks for, and whether it may be believed."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority for two hosts, and what clients are given."""
    folder = tmp_path_factory.mktemp("ca")
    store = Store(folder / "ca")
    store.init([HOST, "*.openai.azure.com"])
    trust.export(store.roots(), trust.Roots("nothing else", ()), folder / "public")
    return folder


def leaf(folder: Path, names: list[x509.GeneralName], host: str) -> Path:
    """A certificate as mitmproxy makes them: the authority's own key, no key identifier, two days back. With chain."""
    authority = Store(folder / "ca").current()
    assert authority is not None
    key = load_pem_private_key((authority.folder / "key.pem").read_bytes(), None)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(authority.issuing.subject)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .public_key(authority.issuing.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=197))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                authority.issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / f"leaf-{host}-{len(names)}.pem"
    path.write_bytes(
        certificate.public_bytes(Encoding.PEM)
        + authority.issuing.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


class Server:
    """HTTPS on a port of this machine that answers 204 to whoever gets through the handshake."""

    def __init__(self, pem: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self.socket = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Server":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join()
        self.socket.close()

    closing = False

    def _serve(self) -> None:
        while not self.closing:
            try:
                connection, _ = self.socket.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    )
            except (ssl.SSLError, OSError):
                continue  # a client that does not believe us


def by_openssl(made: Path, pem: Path, host: str, port: int) -> tuple[bool, str]:
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", host,
             "-CAfile", str(made / "public" / "ca.crt"), "-untrusted", str(pem), str(pem)]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stderr


def by_python(made: Path, pem: Path, host: str, port: int) -> tuple[bool, str]:
    context = ssl.create_default_context(cafile=made / "public" / "bundle.pem")
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from 3.13 on
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            with context.wrap_socket(raw, server_hostname=host) as wrapped:
                wrapped.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return b"204" in wrapped.recv(100), ""
    except ssl.SSLCertVerificationError as error:
        return False, str(error)


def by_curl(made: Path, pem: Path, host: str, port: int) -> tuple[bool, str]:
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "--connect-to", f"{host}:443:127.0.0.1:{port}", f"https://{host}/"],
        capture_output=True, text=True, check=False, env={"CURL_CA_BUNDLE": str(made / "public" / "bundle.pem")},
    )  # fmt: skip
    return done.returncode == 0, done.stderr


NODE = """
const [host, port] = process.argv.slice(1);
require('tls').connect({host: '127.0.0.1', port, servername: host}, () => process.exit(0))
  .on('error', (error) => { console.error(error.code, error.message); process.exit(1) });
"""


def by_node(made: Path, pem: Path, host: str, port: int) -> tuple[bool, str]:
    done = subprocess.run(
        [shutil.which("node") or "node", "-e", NODE, host, str(port)], capture_output=True, text=True, check=False,
        env={"NODE_EXTRA_CA_CERTS": str(made / "public" / "ca.crt")},
    )  # fmt: skip
    return done.returncode == 0, done.stderr


JAVA = """
import java.net.URI;
import java.net.http.*;
public class Ask {
    public static void main(String[] words) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create("https://" + words[0] + ":" + words[1] + "/")).build();
        System.exit(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.discarding()).statusCode() - 204);
    }
}
"""


def by_java(made: Path, pem: Path, host: str, port: int) -> tuple[bool, str]:
    program = made / "Ask.class"
    if not program.exists():
        (made / "Ask.java").write_text(JAVA)
        subprocess.run(["javac", "-d", str(made), str(made / "Ask.java")], check=True, capture_output=True)
    hosts = made / f"hosts-{host}"
    hosts.write_text(f"127.0.0.1 {host}\n")
    store = made / "public" / "truststore.p12"
    done = subprocess.run(
        ["java", f"-Djdk.net.hosts.file={hosts}", f"-Djavax.net.ssl.trustStore={store}",
         f"-Djavax.net.ssl.trustStorePassword={trust.PASSWORD}", "-cp", str(made), "Ask", host, str(port)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode == 0, done.stderr


JUDGES = {"openssl": by_openssl, "python": by_python, "curl": by_curl, "node": by_node, "javac": by_java}
REASON = {
    "openssl": ("permitted subtree violation", "excluded subtree violation"),
    "python": ("permitted subtree violation", "excluded subtree violation"),
    "curl": ("permitted subtree violation", "excluded subtree violation", "SSL certificate problem"),
    "node": ("PERMITTED_VIOLATION", "EXCLUDED_VIOLATION", "subtree violation"),
    "javac": ("name constraints", "Name constraints", "NameConstraints"),
}


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("case", LEAVES)
def test_a_leaf_is_believed_for_the_policys_hosts_and_for_nothing_else(
    judge: str, case: str, made: Path
) -> None:
    program = "python3" if judge == "python" else judge
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    names, host, good = LEAVES[case]
    pem = leaf(made, names, host)

    with Server(pem) as server:
        believed, why = JUDGES[judge](made, pem, host, server.port)

    assert believed is good, why
    if not good:
        assert any(reason in why for reason in REASON[judge]), why


def test_both_certificates_carry_the_constraints_and_one_key_exists(made: Path) -> None:
    authority = Store(made / "ca").current()
    assert authority is not None

    for certificate, below in ((authority.root, 1), (authority.issuing, 0)):
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
        assert found.critical
        assert permitted(certificate) == (HOST, "openai.azure.com")
        assert [str(tree.value) for tree in found.value.excluded_subtrees or ()] == ["0.0.0.0/0", "::/0"]
        assert (
            certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == below
        )
        assert certificate.public_key().curve.name == "secp256r1"
        assert is_ours(certificate)
    keys = [path for path in made.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert [path for path in keys if not path.name.startswith("leaf-")] == [authority.folder / "key.pem"]
    key = load_pem_private_key((authority.folder / "key.pem").read_bytes(), None)
    assert key.public_key() == authority.issuing.public_key()
    assert key.public_key() != authority.root.public_key()


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["API.openai.com.", "api.openai.com"], ("api.openai.com",)),
        (["*.openai.azure.com"], ("openai.azure.com",)),
        (["b.example", "a.example"], ("a.example", "b.example")),
        (["10.0.0.7"], ("10.0.0.7",)),
        ([], ()),
    ],
)
def test_hosts_as_constraints(hosts: list[str], expected: tuple[str, ...]) -> None:
    assert constraints(hosts) == expected


@pytest.mark.parametrize("host", ["bedrock-runtime.*.amazonaws.com", "*", "*.com", "", "api*.example.com"])
def test_hosts_that_no_constraint_can_say(host: str) -> None:
    with pytest.raises(CaError, match="one by one"):
        constraints([host])


@pytest.mark.parametrize(
    ("name", "allowed", "expected"),
    [
        ("api.openai.com", ("api.openai.com",), True),
        ("eu.api.openai.com", ("api.openai.com",), True),
        ("xapi.openai.com", ("api.openai.com",), False),
        ("openai.com", ("api.openai.com",), False),
        ("10.0.0.7", ("10.0.0.7",), True),
        ("110.0.0.7", ("0.0.7",), False),
    ],
)
def test_names_within_constraints(name: str, allowed: tuple[str, ...], expected: bool) -> None:
    assert within(name, allowed) is expected


def test_a_policy_of_addresses_shuts_every_name_out() -> None:
    root, _, _ = issue(("10.0.0.7",))

    found = root.extensions.get_extension_for_class(x509.NameConstraints).value
    assert permitted(root) == ("10.0.0.7",)
    assert found.excluded_subtrees == [x509.DNSName("")]


def test_a_certificate_without_constraints_is_refused(made: Path) -> None:
    pem = leaf(made, [x509.DNSName(HOST)], HOST)

    with pytest.raises(CaError, match="any host"):
        permitted(x509.load_pem_x509_certificate(pem.read_bytes()))
