"""Who and where from, as keyed hashes: records can be told together and found again, and nobody reads a name in them.

The key is LLMSHIELD_SECRET_KEY's (derived; the same in every process and on every host, older keys of
LLMSHIELD_PREVIOUS_KEYS still find what they wrote). Without that variable it is 32 random bytes in a file beside the
sink (`audit.key`, mode 0600, made at the first start); a sink that is no file has a random key of the process.
Which of these it is stands in every head record (`identifiers`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from pathlib import Path
from typing import Literal

from llmshield import vault
from llmshield.errors import SecretError
from llmshield.evidence.segments import EvidenceError
from llmshield.sealing import KeyRing

_PURPOSE = "audit:identifiers"
TEXTS = "audit:texts"
"""What the keys that hash texts are derived for."""
_KNOWN = 4096
Source = Literal["secret_key", "file", "process"]


class Identifiers:
    """Hashes identifiers under this sink's key. `source` says where the key is from, `ring` seals what belongs to it, `rings` open it.

    `macs` are all keys under which something may have been written, the current one first.
    """

    def __init__(self, keys: list[KeyRing], source: Source) -> None:
        self.ring = keys[0]
        self.rings = tuple(keys)
        self.source: Source = source
        self.macs = [mac for key in keys for mac in key.derive_all(_PURPOSE)]
        self.text_keys = [key for held in keys for key in held.derive_all(TEXTS)]
        self._known: dict[str, str] = {}

    @classmethod
    def of(cls, sink: Path | None, *, make: bool = True) -> Identifiers:
        """Those of a sink; None: it is no file. Without `make` a missing key file is not made.

        Raises: SecretError for an unusable LLMSHIELD_SECRET_KEY, EvidenceError for an unusable key file.
        """
        held = _read(key_path(sink)) if sink is not None else None
        if vault.has_key():
            return cls([vault.ring(), *([held] if held is not None else [])], "secret_key")
        if sink is None:
            return cls([KeyRing(os.urandom(32))], "process")
        if held is None and make:
            held = _make(key_path(sink))
        if held is None:
            raise EvidenceError(
                f"there is no {key_path(sink)} and no LLMSHIELD_SECRET_KEY: names of this log can't be hashed"
            )
        return cls([held], "file")

    def ring_for(self, sealed: bytes) -> KeyRing:
        """The ring that may open this: the vault's, or the sink's own that was there before it."""
        return next((ring for ring in self.rings if ring.holds(sealed)), self.ring)

    def hash(self, value: str) -> str:
        """`hmac:` and 16 hexadecimal digits; empty for an empty value."""
        known = self._known.get(value)
        if known is None:
            known = self.spellings(value)[0] if value else ""
            if len(self._known) >= _KNOWN:
                self._known.clear()
            if len(value) <= 256:
                self._known[value] = known
        return known

    def spellings(self, value: str) -> list[str]:
        """The hashes that a value has under all keys, the current one first."""
        raw = value.encode("utf-8", "surrogatepass")
        return [f"hmac:{hashlib.blake2b(raw, key=mac, digest_size=8).hexdigest()}" for mac in self.macs]


def text_hash(key: bytes, text: str) -> str:
    """The keyed hash of one text, 128 bits."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()


def key_path(sink: Path) -> Path:
    """Where the key of a sink stands that has none from the environment."""
    return sink.with_suffix(".key")


def _read(path: Path) -> KeyRing | None:
    """The key in a file; None without the file. Raises: EvidenceError."""
    try:
        text = path.read_text("ascii")
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(
            f"the audit's key file {str(path)!r} can't be read: {type(error).__name__}"
        ) from None
    if os.name == "posix" and mode & 0o077:
        raise EvidenceError(f"the audit's key file {str(path)!r} may be read by others; chmod 600 it")
    try:
        return KeyRing(base64.urlsafe_b64decode(text.strip()))
    except (ValueError, SecretError):
        raise EvidenceError(
            f"the audit's key file {str(path)!r} is no key (32 bytes in base64); restore it, or remove it and begin anew"
        ) from None


def _make(path: Path) -> KeyRing:
    """A new key; of several processes that make one at once, the first has made it. Raises: EvidenceError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, base64.urlsafe_b64encode(os.urandom(32)) + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    except OSError as error:
        raise EvidenceError(
            f"the audit's key file {str(path)!r} can't be made: {error.strerror}; set LLMSHIELD_SECRET_KEY, or make its "
            "folder writable"
        ) from error
    made = _read(path)
    assert made is not None
    return made
