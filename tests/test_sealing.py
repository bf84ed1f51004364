"""Sealing: the cipher's published vectors, what opens and what never does, and nonces that do not repeat."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from llmshield import sealing
from llmshield.errors import SecretError
from llmshield.sealing import KeyRing, new_key, read_key, weakness, xaes_mask, xaes_seal

OLD, NEW, OTHER = (
    hashlib.sha256(name).digest() for name in (b"old", b"new", b"other")
)  # workers collect alike
OWNERS = ("openai", "anthropic", "eu.gemini-2", "signer:billing", "")


@pytest.mark.parametrize(
    ("byte", "bound", "expected"),
    [
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_the_cipher_gives_its_published_vectors(byte: int, bound: bytes, expected: str) -> None:
    """https://c2sp.org/XAES-256-GCM, test vectors; between them both ways to double the mask's block occur."""
    block = Cipher(AES(bytes([byte]) * 32), ECB())

    sealed = xaes_seal(block, xaes_mask(block), b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM", bound)

    assert expected == sealed.hex()


@given(st.binary(max_size=300), st.text(max_size=40), st.text(max_size=40))
def test_what_is_sealed_opens_in_its_own_context_only(data: bytes, context: str, other: str) -> None:
    ring = KeyRing(NEW, [OLD])
    sealed = ring.seal(data, context)

    assert data == ring.unseal(sealed, context)
    assert len(data) + 46 == len(sealed)
    if other != context:
        with pytest.raises(SecretError, match="changed, or sealed for something else"):
            ring.unseal(sealed, other)


@given(st.text(max_size=200) | st.text("enc:/v1._gA-Az09", max_size=200), st.binary(max_size=100))
def test_anything_is_opened_or_refused(text: str, data: bytes) -> None:
    ring = KeyRing(NEW)
    for attempt in (
        lambda: ring.unseal_reference(text),
        lambda: ring.is_current_reference(text) or fail("what begins as a Fernet token is none of ours"),
        lambda: ring.unseal(data, ""),
    ):
        with pytest.raises(SecretError):
            attempt()


def fail(why: str) -> None:
    raise SecretError(why)


def test_every_flipped_bit_of_100_sealed_records_is_found() -> None:
    ring = KeyRing(NEW)
    flips = found = 0
    for number in range(100):
        sealed = ring.seal(os.urandom(40), f"record:{number}")
        for at in range(len(sealed) * 8):
            changed = bytearray(sealed)
            changed[at // 8] ^= 1 << at % 8
            flips += 1
            try:
                ring.unseal(bytes(changed), f"record:{number}")
            except SecretError:
                found += 1

    assert flips == found == 100 * 86 * 8


def test_every_flipped_bit_of_references_is_found() -> None:
    """As they stand in a file: also bits that a lenient decoder would skip, and such as make no ASCII any more."""
    ring = KeyRing(NEW)
    for number in range(20):
        owner = OWNERS[number % len(OWNERS)]
        secret = base64.b64encode(os.urandom(20 + number)).decode()
        reference = ring.seal_reference(secret, owner)
        raw = reference.removeprefix("enc://").encode()
        for at in range(len(raw) * 8):
            changed = bytearray(raw)
            changed[at // 8] ^= 1 << at % 8
            with pytest.raises(SecretError):
                ring.unseal_reference(changed.decode("latin-1"), owner)
            with pytest.raises(SecretError):
                ring.unseal_reference(changed.decode("latin-1"))


@pytest.mark.parametrize("owner", OWNERS)
def test_every_cut_is_found(owner: str) -> None:
    ring = KeyRing(NEW)
    reference = ring.seal_reference("sk-some-key", owner)
    for length in range(len("enc://"), len(reference)):
        with pytest.raises(SecretError):
            ring.unseal_reference(reference[:length], owner)
    for longer in ("A", "AA", ".", "="):
        with pytest.raises(SecretError):
            ring.unseal_reference(reference + longer, owner)


def test_rows_do_not_change_places() -> None:
    """Neither as they are, nor with the other's name written over."""
    ring = KeyRing(NEW)
    rows = {owner: ring.seal_reference(f"key-of-{owner}", owner) for owner in OWNERS if owner}
    for owner in rows:
        for other, reference in rows.items():
            if other == owner:
                continue
            with pytest.raises(SecretError, match="sealed for"):
                ring.unseal_reference(reference, owner)
            with pytest.raises(SecretError, match="changed, or sealed for something else"):
                ring.unseal_reference(reference.replace(f".{other}.", f".{owner}."), owner)
    unbound = ring.seal_reference("a key")
    with pytest.raises(SecretError):
        ring.unseal_reference(unbound.replace("._.", ".openai."), "openai")
    with pytest.raises(SecretError):
        ring.unseal_reference(rows["openai"].replace(".openai.", "._."), "openai")


def test_rotation_old_keys_open_and_do_not_seal() -> None:
    old, both, new = KeyRing(OLD), KeyRing(NEW, [OLD]), KeyRing(NEW)
    reference = old.seal_reference("sk-some-key", "openai")

    assert "sk-some-key" == both.unseal_reference(reference, "openai")
    assert not both.is_current_reference(reference)
    with pytest.raises(SecretError, match=f"key {old.id}, which is not here; .*LLMSHIELD_PREVIOUS_KEYS"):
        new.unseal_reference(reference, "openai")

    resealed = both.seal_reference("sk-some-key", "openai")
    assert both.is_current_reference(resealed)
    assert "sk-some-key" == new.unseal_reference(resealed, "openai")
    with pytest.raises(SecretError, match="not here"):
        old.unseal_reference(resealed, "openai")


def test_another_key_of_the_same_id_opens_nothing() -> None:
    """Whoever writes the id of a known key over a record of another one gets no further."""
    ring, other = KeyRing(NEW), KeyRing(OTHER)
    sealed = other.seal(b"data", "here")

    with pytest.raises(SecretError, match="changed"):
        ring.unseal(bytes.fromhex(ring.id) + sealed[6:], "here")


def test_fernet_tokens_are_read_of_every_key_of_the_ring() -> None:
    for key in (OLD, NEW):
        token = Fernet(base64.urlsafe_b64encode(key)).encrypt(b"sk-from-before").decode()
        ring = KeyRing(NEW, [OLD])

        assert "sk-from-before" == ring.unseal_reference(f"enc://{token}", "openai")
        assert not ring.is_current_reference(f"enc://{token}")
        with pytest.raises(SecretError, match="Fernet"):
            KeyRing(OTHER).unseal_reference(token)
        for at in range(len(token) * 8):
            changed = bytearray(token.encode())
            changed[at // 8] ^= 1 << at % 8
            with pytest.raises(SecretError):
                ring.unseal_reference(changed.decode("latin-1"))


def test_derived_keys_differ_by_purpose_and_master() -> None:
    derived = {KeyRing(key).derive(purpose) for key in (OLD, NEW) for purpose in ("a", "b", "a\0")}

    assert 6 == len(derived)
    assert KeyRing(NEW).derive("a") == KeyRing(NEW, [OLD]).derive("a")


@pytest.mark.parametrize("count", [100_000, pytest.param(10_000_000, marks=pytest.mark.nightly)])
def test_nonces_do_not_repeat(count: int) -> None:
    """VLT-03. The first half of each is compared, which picks the message's key: 2^96 of them."""
    ring = KeyRing(NEW)
    seen = {ring.seal(b"", "c")[6:18] for _ in range(count)}

    assert count == len(seen)


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(NEW).decode(),
        base64.urlsafe_b64encode(NEW).decode(),
        base64.urlsafe_b64encode(NEW).decode().rstrip("="),
        f"  {base64.b64encode(NEW).decode()}\n",
    ],
)
def test_keys_are_read_in_every_spelling(text: str) -> None:
    assert NEW == read_key(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found 0 bytes"),
        ("a" * 43, None),
        ("c2hvcnQ=", "found 5 bytes in base64, expected 32"),
        (NEW.hex(), "found 48 bytes"),
        ("correct horse battery staple", "no base64"),
        ("ключ", "no base64"),
    ],
)
def test_what_is_no_key_is_told_without_it(text: str, words: str | None) -> None:
    if words is None:
        assert 32 == len(read_key(text))
        return
    with pytest.raises(SecretError, match=words) as caught:
        read_key(text)
    assert not text or text not in str(caught.value)
    assert "llmshield vault key" in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [bytes(32), b"\xff" * 32, bytes(range(32)), b"correct horse battery staple 123", bytes(range(0, 256, 8)),
     OLD[:4] * 8, OLD[:16] + bytes(16)],
)  # fmt: skip
def test_weak_keys_are_known(key: bytes) -> None:
    assert weakness(key)


def test_random_keys_are_not_weak() -> None:
    assert [] == [key for key in (read_key(new_key()) for _ in range(20_000)) if weakness(key)]


def test_a_ring_shows_no_key() -> None:
    ring = KeyRing(NEW, [OLD])
    for key in (NEW, OLD):
        for spelling in (key.hex(), base64.b64encode(key).decode(), repr(key)):
            assert spelling not in repr(ring) + repr(vars(ring))


@pytest.mark.parametrize("owner", ["a b", "a/b", "_", "-x", "ü", "a" * 200, "a\n"])
def test_names_that_can_not_stand_in_a_reference(owner: str) -> None:
    with pytest.raises(SecretError, match="expected letters"):
        KeyRing(NEW).seal_reference("x", owner)


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"x" * 33])
def test_a_ring_takes_32_bytes(key: bytes) -> None:
    with pytest.raises(SecretError, match="expected 32"):
        KeyRing(key)
    assert 32 == sealing.KEY_BYTES
