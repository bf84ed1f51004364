"""Encrypted key files: what opens, what is found to be changed, who may read them, and what a change leaves behind."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from llmshield import key_files
from llmshield.errors import SecretError
from llmshield.key_files import KeyFile
from llmshield.sealing import KeyRing

RING = KeyRing(os.urandom(32))


def made(path: Path, ring: KeyRing = RING, **keys: str) -> KeyFile:
    def edit(entries: dict[str, str]) -> None:
        for name, secret in keys.items():
            entries[name] = ring.seal_reference(secret, name)

    return key_files.change(path, ring, edit, make=True)


def opened(path: Path, ring: KeyRing = RING) -> dict[str, str]:
    return {
        name: ring.unseal_reference(reference, name)
        for name, reference in key_files.read(path, ring).entries.items()
    }


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made(path, openai="sk-1", anthropic="sk-2")
    made(path, gemini="AIza")

    assert {"openai": "sk-1", "anthropic": "sk-2", "gemini": "AIza"} == opened(path)
    assert 2 == key_files.read(path, RING).revision
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert ["keys"] == [file.name for file in tmp_path.iterdir()]
    assert "sk-1" not in path.read_text()


def test_every_flipped_bit_of_100_files_is_found() -> None:
    flips = found = 0
    for number in range(100):
        data = KeyFile({"openai": RING.seal_reference(f"sk-{number}", "openai")}, number).dump(RING)
        assert number == key_files.parse(data, RING).revision
        for at in range(len(data) * 8):
            changed = bytearray(data)
            changed[at // 8] ^= 1 << at % 8
            flips += 1
            try:
                key_files.parse(bytes(changed), RING)
            except SecretError:
                found += 1

    assert flips == found
    assert flips > 100 * 150 * 8


def test_every_cut_is_found() -> None:
    data = KeyFile({name: RING.seal_reference(name, name) for name in ("a", "b")}, 1).dump(RING)
    for length in range(len(data)):
        with pytest.raises(SecretError):
            key_files.parse(data[:length], RING)
    for more in (b"\n", b"x", data):
        with pytest.raises(SecretError):
            key_files.parse(data + more, RING)


def test_no_line_is_moved_added_or_taken_out() -> None:
    one = (
        KeyFile({name: RING.seal_reference(name, name) for name in ("a", "b", "c")}, 1)
        .dump(RING)
        .splitlines(True)
    )
    two = (
        KeyFile({name: RING.seal_reference("x", name) for name in ("a", "b", "c")}, 1)
        .dump(RING)
        .splitlines(True)
    )
    rows = [
        one[:1] + one[2:],
        one[:2] + one[3:],
        [one[0], one[2], one[1], *one[3:]],
        one[:1] + two[1:2] + one[2:],
        one[:-1] + two[-1:],
        one[:-1],
        [one[0].replace(b" 1\n", b" 2\n"), *one[1:]],
        [*one[:1], one[1].replace(b"a ", b"d ", 1), *one[2:]],
        [*one[:1], b"a " + one[2].split(b" ")[1], *one[2:]],
        [*one[:-1], one[1], one[-1]],
    ]
    for lines in rows:
        with pytest.raises(SecretError):
            key_files.parse(b"".join(lines), RING)


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old, new = KeyRing(os.urandom(32)), os.urandom(32)
    made(path, old, openai="sk-1", anthropic="sk-2")
    both = KeyRing(new, [_master(old)])

    assert 2 == key_files.rotate(path, both)
    assert {"openai": "sk-1", "anthropic": "sk-2"} == opened(path, KeyRing(new))
    with pytest.raises(SecretError, match="not here"):
        key_files.read(path, old)


def _master(ring: KeyRing) -> bytes:
    """The master key of a ring that a test made."""
    return ring._derived.__closure__[0].cell_contents  # type: ignore[no-any-return]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made(path, openai="sk-1")
    before = path.read_bytes()

    def edit(entries: dict[str, str]) -> None:
        entries.clear()
        raise SecretError("no")

    with pytest.raises(SecretError, match="no"):
        key_files.change(path, RING, edit)
    assert before == path.read_bytes()
    assert ["keys"] == [file.name for file in tmp_path.iterdir()]


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made(path, openai="sk-1")
    (tmp_path / ".keys.4711.new").write_bytes(path.read_bytes()[:50])
    made(path, openai="sk-2")

    assert {"openai": "sk-2"} == opened(path)
    assert ["keys"] == [file.name for file in tmp_path.iterdir()]


def test_who_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made(path, openai="sk-1")
    for mode, words in ((0o604, "0604.*chmod 600"), (0o602, "chmod 600"), (0o666, "chmod 600")):
        path.chmod(mode)
        with pytest.raises(SecretError, match=words):
            key_files.read(path, RING)
        assert "chmod 600" in key_files.danger(path)
    for mode in (0o600, 0o640, 0o440):
        path.chmod(mode)
        assert {"openai": "sk-1"} == opened(path)
        assert key_files.danger(path) == ""

    link = tmp_path / "link"
    link.symlink_to("keys")
    with pytest.raises(SecretError, match="symbolic link"):
        key_files.read(link, RING)
    with pytest.raises(SecretError, match="symbolic link"):
        key_files.change(link, RING, dict.clear, make=True)
    assert "symbolic link" in key_files.danger(link)


def test_the_links_of_kubernetes_are_followed(tmp_path: Path) -> None:
    """https://kubernetes.io/docs/concepts/configuration/secret/: `key -> ..data/key`, `..data -> ..2026_11_20`."""
    version = tmp_path / "..2026_11_20"
    version.mkdir()
    made(version / "keys", openai="sk-1")
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "keys").symlink_to("..data/keys")

    assert {"openai": "sk-1"} == opened(tmp_path / "keys")
    assert key_files.danger(tmp_path / "keys") == ""
    (version / "keys").chmod(0o644)
    assert "chmod 600" in key_files.danger(tmp_path / "keys")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"sk-not-a-key-file", b"end x\n", b"\xff\xfe end \n", os.urandom(200)]
)
def test_what_is_no_key_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SecretError):
        key_files.read(path, RING)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="can't be read: No such file"):
        key_files.read(tmp_path / "none", RING)
    with pytest.raises(SecretError, match="no regular file"):
        key_files.read(tmp_path, RING)
    assert key_files.danger(tmp_path / "none") == ""
    with pytest.raises(SecretError, match="No such file"):
        key_files.change(tmp_path / "none" / "keys", RING, dict.clear, make=True)


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    chance = random.Random(1)
    for _ in range(20):
        secret = f"sk-{chance.random()}"
        made(path, openai=secret)
        assert {"openai": secret} == opened(path) == opened(path)
