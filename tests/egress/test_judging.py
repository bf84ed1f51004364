"""What files of roots are worth, and for whom."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from llmshield.egress import trust
from llmshield.egress.ca import Store
from llmshield.egress.judging import judge, readable, system_trusts


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "ca")
    store.init(["api.openai.com"])
    return store


def test_what_a_file_has(store: Store, tmp_path: Path) -> None:
    ours, system = store.roots(), trust.system_roots()
    trust.export(ours, system, tmp_path / "out")
    old = Store(tmp_path / "old")
    old.init(["api.openai.com"])
    trust.export(old.roots(), system, tmp_path / "old-out")
    (tmp_path / "empty.pem").write_text("nothing")
    (tmp_path / "broken.p12").write_text("nothing")

    found = {
        name: judge(str(tmp_path / name), ours, 0)
        for name in ("out/ca.crt", "out/bundle.pem", "out/truststore.p12", "old-out/bundle.pem", "old-out/truststore.p12",
                     "empty.pem", "broken.p12", "none.pem")
    }  # fmt: skip
    assert found == {
        "out/ca.crt": "ours",
        "out/bundle.pem": "both",
        "out/truststore.p12": "both",
        "old-out/bundle.pem": "others",
        "old-out/truststore.p12": "others",
        "empty.pem": "missing",
        "broken.p12": "missing",
        "none.pem": "missing",
    }
    assert judge(str(tmp_path / "out/bundle.pem"), (), 0) == "others"


def test_during_a_rotation_both_roots_have_to_be_there(store: Store, tmp_path: Path) -> None:
    trust.export(store.roots(), trust.system_roots(), tmp_path / "out")
    store.rotate(["api.openai.com"])

    assert judge(str(tmp_path / "out/bundle.pem"), store.roots(), 0) == "others"


@pytest.mark.parametrize(
    ("folder", "file", "uid", "expected"),
    [
        (0o755, 0o644, 12345, True),
        (0o700, 0o644, 12345, False),
        (0o755, 0o600, 12345, False),
        (0o700, 0o600, 0, True),
    ],
)
def test_who_may_read(tmp_path: Path, folder: int, file: int, uid: int, expected: bool) -> None:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if parent.stat().st_mode & 0o077 == 0:  # pytest's own folders
            parent.chmod(0o755)
    path = tmp_path / "in" / "file"
    path.parent.mkdir()
    path.write_text("")
    path.chmod(file)
    path.parent.chmod(folder)

    assert readable(path, uid) is expected


def test_the_systems_own_roots(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "system.pem"
    monkeypatch.setattr(trust, "SYSTEM", (str(tmp_path / "none"), str(bundle)))

    assert not system_trusts(store.roots())
    bundle.write_bytes(b"".join(root.public_bytes(Encoding.PEM) for root in store.roots()))
    assert system_trusts(store.roots())
    assert not system_trusts(())
