"""Certificates of transparent egress: which names they may stand for, and how a root and what signs are made.

Two certificates, because programs differ in what they believe of a trust anchor. The root is what clients are told to
trust; its key signs one certificate and is thrown away, it never reaches a disk. The issuing certificate below it has
the one key that exists, and with it the proxy signs its leaves. Both carry the same critical name constraints
(RFC 5280, 4.2.1.10): permitted are the policy's hosts, excluded is every address. OpenSSL, Go and NSS obey constraints
on the root already; Java ignores them on a trust anchor and obeys them on what stands below one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from llmshield import clock
from llmshield.errors import ShieldError

MARK = "llmshield egress"
"""The organisation in every certificate that is made here; by it they are found again in a bundle."""

_LIFE = timedelta(days=825)  # a rotation a year with time to spare; one that is forgotten does end
_SKEW = timedelta(hours=1)  # clocks of clients that run late

Hosts: TypeAlias = Iterable[str]


class CaError(ShieldError):
    """The certificate authority can't be made, read or used; the message says what to do."""


def constraints(hosts: Hosts) -> tuple[str, ...]:
    """The names that a certificate has to be allowed for these hosts, each once, in lower case.

    A constraint on a name holds for everything below it too, so `*.example.com` becomes `example.com`.
    Raises: CaError for a host with `*` elsewhere, which no constraint can say.
    """
    found: dict[str, None] = {}
    for host in hosts:
        name = host.lower().rstrip(".").removeprefix("*.")
        if "*" in name or not name or ("." not in name and host.startswith("*.")):
            raise CaError(
                f"No name constraint can say {host!r}: only a leading '*.' before a name with a dot is possible; write"
                " the hosts out, one by one."
            )
        found[name] = None
    return tuple(sorted(found))


def is_address(name: str) -> bool:
    """Whether this host is an address, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def issue(names: tuple[str, ...]) -> tuple[x509.Certificate, x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Root, issuing certificate and the latter's key, for these names. The root's key ends with this function."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # The name tells two roots of one machine apart, in trust stores that sort by name.
    tag = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()).digest.hex()[:8]
    root_name, issuing_name = _name(f"{MARK} root {tag}"), _name(f"{MARK} issuing {tag}")
    root = _builder(root_name, root_name, root_key.public_key(), root_key.public_key(), 1, names)
    issuing = _builder(issuing_name, root_name, key.public_key(), root_key.public_key(), 0, names)
    return root.sign(root_key, hashes.SHA256()), issuing.sign(root_key, hashes.SHA256()), key


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, MARK), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    below: int,
    names: tuple[str, ...],
) -> x509.CertificateBuilder:
    start = now()
    addresses = [x509.IPAddress(ipaddress.ip_network(name)) for name in names if is_address(name)]
    hosts = [x509.DNSName(name) for name in names if not is_address(name)]
    everywhere = [x509.IPAddress(ipaddress.ip_network(net)) for net in ("0.0.0.0/0", "::/0")]
    # Without a permitted name of a kind, every name of that kind is allowed: a policy of addresses has to shut names out.
    nowhere = [x509.DNSName("")] if not hosts else []
    shut = [*nowhere, *([] if addresses else everywhere)]
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _SKEW)
        .not_valid_after(start + _LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.NameConstraints([*hosts, *addresses], shut or None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def permitted(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names in a certificate's constraints. Raises: CaError when it has none: it could sign for everybody."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:
        raise CaError(
            "The certificate authority has no name constraints: it could sign for any host. It was not made by"
            " llmshield egress ca init; remove it and make one."
        ) from None
    names: list[str] = []
    for subtree in found.value.permitted_subtrees or ():
        if isinstance(subtree, x509.DNSName):
            names.append(subtree.value.lower())
        elif isinstance(subtree, x509.IPAddress):
            value = subtree.value
            network = value if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network) else None
            names.append(str(network.network_address if network else value))
    return tuple(sorted(names))


def within(name: str, allowed: tuple[str, ...]) -> bool:
    """Whether a name is one of the allowed, or below one of them."""
    if is_address(name):
        return name in allowed
    return any(name == other or name.endswith(f".{other}") for other in allowed)


def is_ours(certificate: x509.Certificate) -> bool:
    """Whether this certificate was made here, by its organisation."""
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return any(attribute.value == MARK for attribute in found)


def now() -> datetime:
    """This moment, UTC."""
    return datetime.fromtimestamp(clock.now(), UTC)
