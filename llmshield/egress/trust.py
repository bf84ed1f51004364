"""What clients are given so that they trust the proxy: the root alone, the system's roots with it, and the same for Java.

Three files in one folder, readable by everybody; no key is ever among them. While a certificate authority is being
replaced they hold both roots.

    ca.crt            for programs that add it to what they trust (NODE_EXTRA_CA_CERTS, DENO_CERT)
    bundle.pem        for programs that trust this file instead of the system's roots (SSL_CERT_FILE and others)
    truststore.p12    for Java, which replaces its own roots with it as well
"""

from __future__ import annotations

import os
import re
import ssl
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, pkcs12

from llmshield.egress.certificates import CaError, is_ours

CA, BUNDLE, TRUSTSTORE = "ca.crt", "bundle.pem", "truststore.p12"
PASSWORD = "changeit"  # noqa: S105 - Java's own default; the file holds public certificates only
"""The password of the trust store. It keeps nothing secret; Java does not open a store without one."""

SYSTEM = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat, Fedora, Amazon
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Roots:
    """Certificates that a system trusts, and where they were found. `unread` could not be parsed and are left out."""

    source: str
    certificates: tuple[x509.Certificate, ...]
    unread: int = 0


def system_roots(extra: Sequence[Path] = ()) -> Roots:
    """What this system trusts, without what was made here, and the certificates of `extra` files.

    Raises: CaError when nothing is found, or an extra file holds no certificate.
    """
    default = ssl.get_default_verify_paths()
    for place in (*SYSTEM, default.openssl_cafile):
        if Path(place).is_file():
            found = _parse(place, Path(place).read_bytes())
            break
    else:
        found = Roots("this system", ())
    certificates, unread = [*found.certificates], found.unread
    for path in extra:
        try:
            more = _parse(str(path), path.read_bytes())
        except OSError as error:
            raise CaError(f"--roots {path}: {error.strerror}") from None
        if not more.certificates:
            raise CaError(f"--roots {path}: no certificate in PEM form is in it")
        certificates += more.certificates
        unread += more.unread
    kept = [certificate for certificate in dict.fromkeys(certificates) if not is_ours(certificate)]
    if not kept:
        raise CaError(
            f"{found.source} holds no certificate: a bundle without the system's roots would break every other host."
            " Install your system's ca-certificates, or name a file of roots: --roots FILE"
        )
    return Roots(found.source, tuple(kept), unread)


def export(ours: Sequence[x509.Certificate], system: Roots, folder: Path) -> None:
    """Write the three files, each whole or not at all, readable by everybody. Raises: CaError."""
    if not hasattr(pkcs12, "serialize_java_truststore"):
        raise CaError("A trust store for Java needs cryptography 45 or later: pip install 'cryptography>=45'")
    files = {CA: _pem(ours), BUNDLE: bundle(ours, system), TRUSTSTORE: _java([*ours, *system.certificates])}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        for name, data in files.items():
            part = folder / f".{name}.{os.getpid()}"
            part.write_bytes(data)
            part.chmod(0o644)  # whatever the umask is: services of other users read them
            part.replace(folder / name)
    except OSError as error:
        raise CaError(f"{error.filename or folder} can't be written: {error.strerror}") from None


def bundle(ours: Sequence[x509.Certificate], system: Roots) -> bytes:
    """Ours first, then the system's, as PEM."""
    return _pem([*ours, *system.certificates])


def certificates_in(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file. Raises: OSError."""
    return _parse(str(path), path.read_bytes()).certificates


def _parse(source: str, data: bytes) -> Roots:
    found: list[x509.Certificate] = []
    unread = 0
    for block in _PEM.findall(data):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some old roots have negative serial numbers
                found.append(x509.load_pem_x509_certificate(block))
        except ValueError:
            unread += 1
    return Roots(source, tuple(found), unread)


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _java(certificates: Sequence[x509.Certificate]) -> bytes:
    entries = [
        pkcs12.PKCS12Certificate(certificate, certificate.fingerprint(hashes.SHA256()).hex()[:16].encode())
        for certificate in certificates
    ]
    return pkcs12.serialize_java_truststore(entries, BestAvailableEncryption(PASSWORD.encode()))
