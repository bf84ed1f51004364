"""The authority on its disk: made once, private, never remade behind anybody's back, replaced with overlap."""

import os
import threading
from pathlib import Path

import pytest
from cryptography import x509

from llmshield.egress.ca import Authority, CaError, Store, expires_soon, write_signing_folder
from llmshield.testing import FrozenClock

HOSTS = ("api.openai.com", "api.anthropic.com")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "ca")


def made(store: Store) -> Authority:
    authority, _ = store.init(HOSTS)
    return authority


def test_init_makes_one_and_keeps_it(store: Store) -> None:
    first, new = store.init(HOSTS)
    again, anew = store.init(["other.example"])

    assert (new, anew) == (True, False)
    assert again.fingerprint == first.fingerprint
    assert first.names == ("api.anthropic.com", "api.openai.com")
    assert [path.name for path in store.folder.iterdir()] == ["current"]


def test_keys_are_private_whatever_the_umask_is(store: Store) -> None:
    before = os.umask(0)
    try:
        authority = made(store)
        pem = write_signing_folder(authority, store.folder.parent / "run")
    finally:
        os.umask(before)

    for path in (store.folder, authority.folder, pem.parent):
        assert path.stat().st_mode & 0o777 == 0o700, path
    for path in (authority.folder / "key.pem", pem):
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_the_signing_file_is_key_then_what_signs_then_the_root(store: Store) -> None:
    authority = made(store)
    data = write_signing_folder(authority, store.folder.parent / "run").read_bytes()

    assert data.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert x509.load_pem_x509_certificates(data) == [authority.issuing, authority.root]


@pytest.mark.parametrize("gone", ["key.pem", "issuing.crt", "root.crt"])
def test_half_of_it_is_an_error_and_no_reason_for_a_new_one(store: Store, gone: str) -> None:
    folder = made(store).folder
    (folder / gone).unlink()

    for use in (store.current, lambda: store.init(HOSTS), lambda: store.needed(HOSTS), store.roots):
        with pytest.raises(CaError, match=gone):
            use()
    assert not (folder / gone).exists()


def test_files_that_do_not_belong_together_are_an_error(store: Store, tmp_path: Path) -> None:
    folder, other = made(store).folder, made(Store(tmp_path / "other")).folder
    for name, said in (("key.pem", "is not the key"), ("root.crt", "was not signed by")):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes((other / name).read_bytes())
        with pytest.raises(CaError, match=said):
            store.current()
        (folder / name).write_bytes(kept)
    for name in ("key.pem", "root.crt", "issuing.crt"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(b"-----BEGIN NOTHING-----")
        with pytest.raises(CaError, match=name):
            store.current()
        (folder / name).write_bytes(kept)
    assert store.current() is not None


@pytest.mark.parametrize("name", ["key.pem", "."])
def test_a_key_that_others_may_read_is_an_error(store: Store, name: str) -> None:
    path = made(store).folder / name
    path.chmod(0o755 if name == "." else 0o644)

    with pytest.raises(CaError, match="chmod"):
        store.current()


def test_a_signing_folder_that_others_may_read_is_an_error(store: Store, tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir(mode=0o755)

    with pytest.raises(CaError, match="chmod 700"):
        write_signing_folder(made(store), tmp_path / "run")


def test_a_host_more_is_noticed_and_one_less_is_not_missed(store: Store) -> None:
    with pytest.raises(CaError, match="ca init"):
        store.needed(HOSTS)
    made(store)

    assert store.needed(HOSTS[:1]).lacks(HOSTS) == ()
    with pytest.raises(CaError, match=r"also has new\.example.*ca rotate"):
        store.needed([*HOSTS, "new.example"])


def test_without_hosts_none_is_made(store: Store) -> None:
    with pytest.raises(CaError, match=r"egress\.hosts"):
        store.init([])
    assert not store.folder.exists()


def test_it_ends_and_says_so_before(store: Store) -> None:
    authority = made(store)
    left = (authority.ends.timestamp()) - 29 * 86400

    assert not expires_soon(authority)
    with FrozenClock(left):
        assert expires_soon(authority)
        assert store.needed(HOSTS)
    with FrozenClock(authority.ends.timestamp() + 1), pytest.raises(CaError, match="ended on"):
        store.needed(HOSTS)


def test_a_rotation_hands_out_both_roots_until_it_ends(store: Store) -> None:
    old = made(store)

    assert store.stage() == "none"
    new = store.rotate([*HOSTS, "new.example"])
    assert store.stage() == "started"
    assert store.needed(HOSTS).fingerprint == old.fingerprint, "the old one signs on"
    assert store.roots() == [old.root, new.root]

    assert store.switch().fingerprint == new.fingerprint
    assert store.stage() == "switched"
    assert store.needed([*HOSTS, "new.example"]).fingerprint == new.fingerprint
    assert store.roots() == [new.root, old.root]
    keys = [path for path in store.folder.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    assert keys == [store.folder / "current" / "key.pem"], "the old key is gone"

    store.finish()
    assert store.stage() == "none"
    assert store.roots() == [new.root]


def test_a_switch_that_was_broken_off_is_told_and_ended(store: Store) -> None:
    made(store)
    new = store.rotate(HOSTS)
    (store.folder / "current").rename(store.folder / ".leaving-1")

    for use in (store.current, lambda: store.init(HOSTS), lambda: store.needed(HOSTS)):
        with pytest.raises(CaError, match="--switch ends it"):
            use()
    assert store.switch().fingerprint == new.fingerprint
    assert sorted(path.name for path in store.folder.iterdir()) == ["current"]


def test_steps_of_a_rotation_in_the_wrong_order_are_refused(store: Store) -> None:
    with pytest.raises(CaError, match="no certificate authority"):
        store.rotate(HOSTS)
    made(store)
    for step in (store.switch, store.finish, store.abandon):
        with pytest.raises(CaError):
            step()
    store.rotate(HOSTS)
    with pytest.raises(CaError, match="--switch is its next step"):
        store.rotate(HOSTS)
    store.abandon()
    assert store.stage() == "none"
    store.rotate(HOSTS)
    store.switch()
    with pytest.raises(CaError, match="--finish is its next step"):
        store.rotate(HOSTS)
    with pytest.raises(CaError):
        store.abandon()


def test_of_many_at_once_one_makes_it(store: Store) -> None:
    gate, found = threading.Barrier(8), list[tuple[str, bool]]()

    def run() -> None:
        gate.wait()
        authority, new = store.init(HOSTS)
        found.append((authority.fingerprint, new))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({fingerprint for fingerprint, _ in found}) == 1
    assert [path.name for path in store.folder.iterdir()] == ["current"]


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CaError, match="can't be written"):
        Store(tmp_path / "file" / "ca").init(HOSTS)
