"""Sealing: authenticated encryption under a ring of keys, bound to a context. Bytes in, bytes out; no I/O.

A ring has one key that seals and older ones that still open. What is sealed under one context (whose key it is, which
record it belongs to) opens under no other, and a change of any bit is found.

The cipher is XAES-256-GCM (https://c2sp.org/XAES-256-GCM): AES-256-GCM under a key that is derived for each message from
the first half of a random 192-bit nonce. With plain AES-GCM and random nonces, 2^32 messages are the most that one key
may seal (NIST SP 800-38D, 8.3), which an audit log reaches; here the bound is 2^80, so that no counter has to survive
crashes and be shared by processes. The data's key and the key's public id are derived from the master key, each for
itself (HKDF, RFC 5869), since Fernet tokens use the master key as it is.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Iterable
from itertools import pairwise

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from llmshield.errors import SecretError

KEY_BYTES = 32
SCHEME = "enc://"
VERSION = "v1"
UNBOUND = "_"
"""Stands in a token for the owner that it lacks; no name of a provider."""
FERNET = "gAAAA"
"""How every Fernet token begins: its version byte, and the first bytes of a time before the year 2106."""

_ID_BYTES = 6
_NONCE_BYTES = 24
_TAG_BYTES = 16
_OVERHEAD = _ID_BYTES + _NONCE_BYTES + _TAG_BYTES
_DOMAIN = b"llmshield.seal.v1\0"
_FEWEST = 20
"""Different bytes in a key: 32 random ones have fewer than 20 once in 10^13 keys."""
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class KeyRing:
    """The key that seals, and those that only open any more. `repr` shows their ids, which are public."""

    def __init__(self, primary: bytes, previous: Iterable[bytes] = ()) -> None:
        """Raises: SecretError for a key that is not 32 bytes long."""
        masters = [primary, *previous]
        for master in masters:
            if len(master) != KEY_BYTES:
                raise SecretError(f"found a key of {len(master)} bytes, expected {KEY_BYTES}")
        self._keys = {key.id: key for key in map(_Key, reversed(masters))}
        self._primary = self._keys[_Key(primary).id]
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(master)) for master in masters])
        self._derived: Callable[[bytes], bytes] = lambda info: _derive(
            primary, info
        )  # not as an attribute: `vars` would show it
        self._derived_all: Callable[[bytes], tuple[bytes, ...]] = lambda info: tuple(
            _derive(master, info) for master in masters
        )

    @property
    def id(self) -> str:
        """The public id of the key that seals: 12 hexadecimal digits."""
        return self._primary.id.hex()

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys that open, sorted."""
        return tuple(sorted(key.hex() for key in self._keys))

    def seal(self, data: bytes, context: str) -> bytes:
        """`data` sealed for `context` under the first key; 46 bytes longer."""
        return self._primary.seal(data, context)

    def unseal(self, sealed: bytes, context: str) -> bytes:
        """What was sealed for `context` under any key of the ring.

        Raises: SecretError when its key is not in the ring, when it was changed, or when it was sealed for another
        context; nothing tells the last two apart.
        """
        if len(sealed) < _OVERHEAD:
            raise SecretError("it is too short to be sealed; it was cut, or is something else")
        key = self._keys.get(sealed[:_ID_BYTES])
        if key is None:
            raise SecretError(
                f"it was sealed with the key {sealed[:_ID_BYTES].hex()}, which is not here; put that key into"
                " LLMSHIELD_PREVIOUS_KEYS"
            )
        return key.unseal(sealed, context)

    def is_current(self, sealed: bytes) -> bool:
        """Whether this was sealed with the key that seals now."""
        return sealed[:_ID_BYTES] == self._primary.id

    def derive(self, purpose: str) -> bytes:
        """32 bytes for another purpose (a MAC), from the key that seals; the same in every process."""
        return self._derived(b"llmshield.derive.v1\0" + purpose.encode())

    def derive_all(self, purpose: str) -> tuple[bytes, ...]:
        """What `derive` gives under each key of the ring, the one that seals first: to find what older keys wrote."""
        return self._derived_all(b"llmshield.derive.v1\0" + purpose.encode())

    def holds(self, sealed: bytes) -> bool:
        """Whether this was sealed with a key of this ring."""
        return sealed[:_ID_BYTES] in self._keys

    # -- references, as they stand in a policy -----------------------------------------------------------------

    def seal_reference(self, secret: str, owner: str = "") -> str:
        """`enc://v1.<owner>.<key id>.<sealed>`, good for this owner (a provider) only; without one, for any.

        Raises: SecretError for an owner that can't stand there.
        """
        if owner and not _OWNER.fullmatch(owner):
            raise SecretError(f"found the name {owner!r:.80}, expected letters, digits, dots and hyphens")
        sealed = self.seal(secret.encode(), _owner_context(owner))
        return f"{SCHEME}{VERSION}.{owner or UNBOUND}.{pack(sealed)}"

    def unseal_reference(self, text: str, owner: str | None = None) -> str:
        """The secret in an `enc://` reference (its scheme may be missing); `owner` is who wants it, None: anybody.

        Raises: SecretError when it can't be opened, or was sealed for another owner.
        """
        text = text.strip().removeprefix(SCHEME)
        if text.startswith(FERNET):
            return self._unseal_fernet(text)
        bound, sealed = read_reference(text)
        if owner is not None and bound and bound != owner:
            raise SecretError(f"it was sealed for {bound!r}, not for {owner!r}; seal the key for {owner!r}")
        data = self.unseal(sealed, _owner_context(bound))
        return _text(data)

    def _unseal_fernet(self, token: str) -> str:
        try:
            data = self._fernet.decrypt(token.encode("ascii"))
        except (InvalidToken, UnicodeEncodeError):
            raise SecretError(
                "the Fernet token was changed, or its key is neither LLMSHIELD_SECRET_KEY nor in"
                " LLMSHIELD_PREVIOUS_KEYS"
            ) from None
        if base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)) != token.encode():
            raise SecretError("the Fernet token is not spelt as it was made")  # bits that no decoder looks at
        return _text(data)

    def is_current_reference(self, text: str) -> bool:
        """Whether a reference needs no resealing: it is ours, and of the key that seals now.

        Raises: SecretError for what is no reference.
        """
        text = text.strip().removeprefix(SCHEME)
        return not text.startswith(FERNET) and self.is_current(read_reference(text)[1])

    def __repr__(self) -> str:
        return f"KeyRing({self.id}, opens {len(self._keys)})"


class _Key:
    """One key of a ring."""

    __slots__ = ("_block", "_mask", "id")

    def __init__(self, master: bytes) -> None:
        self.id = _derive(master, b"llmshield.key-id.v1")[:_ID_BYTES]
        self._block = Cipher(AES(_derive(master, b"llmshield.seal-key.v1")), ECB())  # noqa: S305  one block each, as XAES has it
        self._mask = xaes_mask(self._block)

    def seal(self, data: bytes, context: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        sealed = xaes_seal(self._block, self._mask, nonce, data, self._bound(context))
        return self.id + nonce + sealed

    def unseal(self, sealed: bytes, context: str) -> bytes:
        nonce = sealed[_ID_BYTES : _ID_BYTES + _NONCE_BYTES]
        cipher = AESGCM(_message_key(self._block, self._mask, nonce))
        try:
            return cipher.decrypt(nonce[12:], sealed[_ID_BYTES + _NONCE_BYTES :], self._bound(context))
        except InvalidTag:
            raise SecretError("it was changed, or sealed for something else") from None

    def _bound(self, context: str) -> bytes:
        """Format, key and context in one: the key's id has one length, so no two of them give the same bytes."""
        return _DOMAIN + self.id + context.encode()


def xaes_mask(block: Cipher[ECB]) -> bytes:
    """K1 of CMAC (NIST SP 800-38B, 6.1), once for the first half and once for the second of a message's key."""
    encryptor = block.encryptor()
    number = int.from_bytes(encryptor.update(bytes(16)), "big")
    doubled = (number << 1) & (2**128 - 1)
    if number >> 127:
        doubled ^= 0x87
    return doubled.to_bytes(16, "big") * 2


def xaes_seal(block: Cipher[ECB], mask: bytes, nonce: bytes, data: bytes, bound: bytes) -> bytes:
    """XAES-256-GCM of `data` with 24 bytes of nonce and additional data `bound`: ciphertext and tag."""
    return AESGCM(_message_key(block, mask, nonce)).encrypt(nonce[12:], data, bound)


def _message_key(block: Cipher[ECB], mask: bytes, nonce: bytes) -> bytes:
    """The key of one message: two blocks of counter-mode CMAC over the first half of its nonce."""
    half = nonce[:12]
    blocks = int.from_bytes(b"\0\1X\0" + half + b"\0\2X\0" + half, "big") ^ int.from_bytes(mask, "big")
    return block.encryptor().update(blocks.to_bytes(32, "big"))


def read_key(text: str) -> bytes:
    """The 32 bytes of a key as it stands in the environment: base64, of either alphabet, padded or not.

    Raises: SecretError, without the text.
    """
    text = text.strip()
    try:
        raw = text.encode("ascii").replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
        key = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise SecretError(f"found text that is no base64, expected {_MAKE}") from None
    if len(key) != KEY_BYTES:
        raise SecretError(f"found {len(key)} bytes in base64, expected {_MAKE}")
    return key


def new_key() -> str:
    """A new key, in url-safe base64."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


_MAKE = f"{KEY_BYTES} random bytes in base64; make them with `llmshield vault key`"


def weakness(key: bytes) -> str:
    """Why a key of the right length is none that anybody drew at random, or ""."""
    if all(0x20 <= byte < 0x7F for byte in key):  # 32 random bytes are so once in 10^13 keys
        return "it is a text, not random bytes"
    if len(set(key)) < _FEWEST or len({(b - a) % 256 for a, b in pairwise(key)}) < _FEWEST // 2:
        return "its bytes repeat"
    return ""


def read_reference(text: str) -> tuple[str, bytes]:
    """Owner ("" without one) and sealed bytes of a reference of ours, without its scheme.

    Raises: SecretError for another form, also for a second spelling of the same bytes: then a bit was flipped.
    """
    version, _, rest = text.partition(".")
    parts = rest.rsplit(".", 2)
    if version != VERSION or len(parts) != 3:
        raise SecretError("found another form than v1.NAME.KEY.SEALED; seal it with `llmshield vault seal`")
    owner, key_id, coded = parts
    sealed = unpack(f"{key_id}.{coded}")
    if owner == UNBOUND:
        return "", sealed
    if not _OWNER.fullmatch(owner):
        raise SecretError("it was changed: its name is none")
    return owner, sealed


def pack(sealed: bytes) -> str:
    """Sealed bytes as a text: the key's id, a dot, and the rest in url-safe base64 without padding."""
    coded = base64.urlsafe_b64encode(sealed[_ID_BYTES:]).rstrip(b"=").decode()
    return f"{sealed[:_ID_BYTES].hex()}.{coded}"


def unpack(text: str) -> bytes:
    """The bytes that `pack` wrote. Raises: SecretError for anything else, another spelling of the same bytes too."""
    key_id, _, coded = text.partition(".")
    try:
        sealed = bytes.fromhex(key_id) + base64.b64decode(
            coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True
        )
    except ValueError:
        sealed = b""
    if len(sealed) < _OVERHEAD or pack(sealed) != text:
        raise SecretError("it was changed or cut: it is no longer spelt as it was made")
    return sealed


def _owner_context(owner: str) -> str:
    return f"owner\0{owner}" if owner else "anybody"


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SecretError("it holds no text; expected a key") from None


def _derive(master: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, None, info).derive(master)
