"""What clients are given: the system's roots with ours, in the forms that clients read, and never a key."""

import shutil
import ssl
import subprocess
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from llmshield.egress import trust
from llmshield.egress.ca import Store
from llmshield.egress.certificates import CaError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "ca")
    store.init(["api.openai.com"])
    return store


def test_three_files_for_everybody_and_no_key(store: Store, tmp_path: Path) -> None:
    system = trust.system_roots()
    out = tmp_path / "out"
    trust.export(store.roots(), system, out)

    assert sorted(path.name for path in out.iterdir()) == ["bundle.pem", "ca.crt", "truststore.p12"]
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in out.iterdir())
    assert not any(b"PRIVATE KEY" in path.read_bytes() for path in out.iterdir())
    assert [*trust.certificates_in(out / "ca.crt")] == store.roots()
    assert [*trust.certificates_in(out / "bundle.pem")] == [*store.roots(), *system.certificates]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this system's roots include one with a serial number of zero
        found = pkcs12.load_pkcs12((out / "truststore.p12").read_bytes(), trust.PASSWORD.encode())
    assert found.key is None
    assert {entry.certificate for entry in found.additional_certs} == {*store.roots(), *system.certificates}
    context = ssl.create_default_context(cafile=out / "bundle.pem")
    assert len(context.get_ca_certs()) == len(system.certificates) + 1


@pytest.mark.skipif(shutil.which("keytool") is None, reason="no Java here")
def test_java_reads_the_trust_store(store: Store, tmp_path: Path) -> None:
    trust.export(store.roots(), trust.Roots("none", ()), tmp_path)

    words = ["keytool", "-list", "-keystore", str(tmp_path / "truststore.p12"), "-storepass", trust.PASSWORD]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "trustedCertEntry" in listed
    authority = store.current()
    assert authority is not None
    assert authority.fingerprint in listed


def test_stale_roots_of_ours_are_left_out_of_the_systems(store: Store, tmp_path: Path) -> None:
    """`ca install` puts ours among the system's; after a rotation it must not come back by that way."""
    other = Store(tmp_path / "other")
    other.init(["api.openai.com"])
    extra = tmp_path / "roots.pem"
    certificate = trust.system_roots().certificates[0]
    extra.write_bytes(other.roots()[0].public_bytes(Encoding.PEM) + certificate.public_bytes(Encoding.PEM))

    found = trust.system_roots([extra]).certificates
    assert other.roots()[0] not in found
    assert found.count(certificate) == 1


@pytest.mark.parametrize(
    ("data", "said"), [(None, "No such file"), (b"nothing", "no certificate"), (b"", "no certificate")]
)
def test_extra_roots_that_are_none(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "roots.pem"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(CaError, match=said):
        trust.system_roots([path])


def test_a_broken_root_is_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    good = trust.system_roots().certificates[0].public_bytes(Encoding.PEM)
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + good)

    assert trust.system_roots([path]).unread == 1


def test_a_system_without_roots_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    monkeypatch.setattr(trust, "SYSTEM", (str(empty),))

    with pytest.raises(CaError, match="--roots FILE"):
        trust.system_roots()


def test_a_folder_that_can_not_be_written_is_told(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CaError, match="can't be written"):
        trust.export(store.roots(), trust.Roots("none", ()), tmp_path / "file" / "out")
